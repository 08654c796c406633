import { expect, test } from "vitest";
import type { Person } from "../protocol";
import { Company } from "./company";

const person = (id: string, fields: Partial<Person> = {}): Person => ({ id, name: "", role: "viewer", leads: false, ...fields });
const me = person("me", { role: "owner" });

test("who comes is told once, and who was there before is not", () => {
  const company = new Company();
  const take = (shell: string, ...people: Person[]): string => company.take(shell, { you: "me", people: [me, ...people] });
  expect(take("main", person("early"))).toBe("");
  expect(take("main", person("early"))).toBe("");
  expect(take("main", person("early"), person("a", { name: "Ada" }), person("a", { name: "Ada" }))).toBe("Here now: Ada (viewer).");
  expect(take("main", person("a", { name: "Ada" }))).toBe("");
  expect(take("main", person("early"), person("a"))).toBe(""); // back again
  expect(take("logs", person("b"))).toBe(""); // there before this page looked
  expect(take("logs", person("c", { role: "owner" }), person("d", { role: "editor" }))).toBe("Here now: Owner (owner), Guest (editor).");
});
