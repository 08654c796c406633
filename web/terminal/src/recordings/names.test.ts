import { expect, test } from "vitest";
import { addTab, renameTab, single } from "../frame/layout";
import { moment, tabName } from "./names";

test("a recording is called by its tab, and without one by what it was", () => {
  let layout = addTab(single("main"), "t-1");
  layout = renameTab(layout, layout.current, "Build");
  const stored = JSON.stringify(layout);
  expect(["main", "t-1", "t-2"].map((shell) => tabName(shell, stored))).toEqual(["Terminal", "Build", "Closed terminal"]);
  expect(["main", "t-1"].map((shell) => tabName(shell, null))).toEqual(["Terminal", "Closed terminal"]);
  expect(tabName("main", "{no JSON")).toBe("Terminal");
});

test("another day is said with its day", () => {
  const start = new Date(2026, 10, 27, 21, 5, 9);
  const today = moment(start.getTime() / 1000, new Date(2026, 10, 27, 23, 0));
  const later = moment(start.getTime() / 1000, new Date(2026, 10, 28, 1, 0));
  expect(later.endsWith(` ${today}`)).toBe(true);
});
