import { expect, test } from "vitest";
import { called, endsIn, leading, persons, where, type Here } from "./words";

const here = (id: string, shell: string, fields: Partial<Here> = {}): Here => ({ id, shell, name: "", role: "editor", leads: false, ...fields });

test("a person with several terminals is one row, and leads only where that is true", () => {
  const all = [here("a", "main"), here("a", "logs", { leads: true }), here("b", "main", { role: "owner", leads: true }), here("a", "main")];
  expect(persons(all, "main")).toEqual([
    { id: "b", name: "", role: "owner", shells: ["main"], leads: true },
    { id: "a", name: "", role: "editor", shells: ["main", "logs"], leads: false },
  ]);
  expect(persons(all, "logs").map((person) => person.leads)).toEqual([false, true]);
});

test("who gave no name is called by what they are", () => {
  expect(called({ name: "Ada", role: "viewer" })).toBe("Ada");
  expect(called({ name: "", role: "owner" })).toBe("Owner");
  expect(called({ name: "", role: "viewer" })).toBe("Guest");
  const nameOf = (shell: string): string => `Tab ${shell}`;
  expect(where(["main"], "main", nameOf)).toBe("");
  expect(where(["main", "logs"], "main", nameOf)).toBe("in Tab main, Tab logs");
});

test("an end is said in what one can count in", () => {
  expect([59, 60, 61, 7140, 7200, 86400, 604800].map(endsIn)).toEqual(["1 min", "1 min", "2 min", "119 min", "2 h", "24 h", "7 days"]);
});

test("taking over is offered to those who may type and do not lead", () => {
  const ada = { id: "a", name: "Ada", role: "owner", leads: true } as const;
  const you = { id: "y", name: "", role: "editor", leads: false } as const;
  expect(leading({ lead: false, role: "editor", people: [ada, you] })).toEqual({ text: "Ada leads this terminal.", offer: true });
  expect(leading({ lead: false, role: "viewer", people: [ada] }).offer).toBe(false);
  expect(leading({ lead: true, role: "owner", people: [ada] })).toEqual({ text: "", offer: false });
  expect(leading({ lead: true, role: "owner", people: [ada, you] })).toEqual({ text: "You lead this terminal.", offer: false });
});
