import { expect, test } from "vitest";
import { Teller } from "./teller";
import type { Status } from "./uploads";

const all = (...statuses: Status[]): { status: Status }[] => statuses.map((status) => ({ status }));

test("the end of all is said once", () => {
  const teller = new Teller();
  const told = [all(), all("waiting", "waiting"), all("running", "waiting"), all("done", "running"), all("done", "failed"), all("done", "failed"), all()].map((each) => teller.take(each, true));
  expect(told).toEqual(["", "", "", "", "1 of 2 uploaded, 1 failed.", "", ""]);
});

test("a question is said once, where the panel does not show it", () => {
  const teller = new Teller();
  expect(teller.take(all("asking"), true)).toBe("");
  expect(teller.take(all("asking", "running"), false)).toContain("open Files");
  expect(teller.take(all("asking", "done"), false)).toBe("");
  expect(teller.take(all("stopped", "done"), false)).toBe("1 of 2 uploaded.");
  expect(teller.take(all("asking"), false)).toContain("open Files");
});

test("what was stopped is not said: who did it knows", () => {
  const teller = new Teller();
  teller.take(all("running"), true);
  expect(teller.take(all("stopped"), true)).toBe("");
});
