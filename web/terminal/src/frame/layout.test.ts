import { expect, test } from "vitest";
import * as l from "./layout";

const ids = (layout: l.Layout): string[] => layout.tabs.map((tab) => tab.id);
const three = ["b", "c"].reduce((all, name) => l.addTab(all, name), l.single("a"));
const split = l.splitPane(l.splitPane(l.single("a"), "a", "row", "b"), "b", "column", "c");

test("a new tab comes last and is shown, with the lowest free number", () => {
  expect(ids(three)).toEqual(["a", "b", "c"]);
  expect(three.current).toBe("c");
  const again = l.addTab(l.closePane(three, "b"), "d");
  expect(again.tabs.map((tab) => tab.number)).toEqual([1, 3, 2]);
});

test("tabs are gone through in a circle", () => {
  expect(l.stepTab(three, 1).current).toBe("a");
  expect(l.stepTab(l.selectTab(three, "a"), -1).current).toBe("c");
  expect(l.selectTab(three, "nobody").current).toBe("c");
});

test("a tab is moved, not beyond the ends", () => {
  expect(ids(l.moveTab(three, "a", 1))).toEqual(["b", "a", "c"]);
  expect(ids(l.moveTab(three, "a", 99))).toEqual(["b", "c", "a"]);
  expect(ids(l.moveTab(three, "c", -5))).toEqual(["c", "a", "b"]);
});

test("a name is text of at most 40 characters", () => {
  const name = l.renameTab(three, "a", `  \x1b[31m<b>\u202e${"😀".repeat(60)}`).tabs[0]?.name ?? "";
  expect(name.startsWith("[31m<b>😀")).toBe(true);
  expect([...name]).toHaveLength(40);
});

test("a split gives half, and a closed pane gives it back", () => {
  expect(l.boxes(l.currentTab(split).root)).toEqual(new Map([
    ["a", { x: 0, y: 0, width: 0.5, height: 1 }],
    ["b", { x: 0.5, y: 0, width: 0.5, height: 0.5 }],
    ["c", { x: 0.5, y: 0.5, width: 0.5, height: 0.5 }],
  ]));
  expect(l.currentTab(split).active).toBe("c");
  const closed = l.closePane(split, "c");
  expect(l.shellsOf(l.currentTab(closed).root)).toEqual(["a", "b"]);
  expect(l.currentTab(closed).active).toBe("b");
  expect(l.shellsOf(l.currentTab(l.closePane(closed, "a")).root)).toEqual(["b"]);
});

test("the dividers are where the panes meet, and move within their limits", () => {
  const lines = l.dividers(l.currentTab(split).root);
  expect(lines.map(({ path, direction, x, y }) => [path, direction, x, y])).toEqual([["", "row", 0.5, 0], ["1", "column", 0.5, 0.5]]);
  const moved = l.setRatio(l.setRatio(split, "a", "", 0.75), "a", "1", 5);
  expect(l.dividers(l.currentTab(moved).root).map(({ ratio }) => ratio)).toEqual([0.75, 0.9]);
});

test("focus goes through the panes of a tab", () => {
  const seen = [1, 2, 3].map(((layout) => () => l.currentTab((layout = l.stepPane(layout))).active)(split));
  expect(seen).toEqual(["a", "b", "c"]);
  expect(l.activate(l.addTab(split, "z"), "b")).toMatchObject({ current: "a" });
});

test("a closed tab shows its neighbour; the last one leaves a fresh one", () => {
  expect(l.closePane(three, "c").current).toBe("b");
  expect(l.closePane(l.selectTab(three, "a"), "a").current).toBe("b");
  expect(l.closePane(l.selectTab(three, "a"), "c").current).toBe("a");
  expect(l.closePane(l.single("x"), "x")).toEqual(l.single("main"));
});

test("what was stored comes back; what is damaged does not", () => {
  expect(l.parse(JSON.stringify(split))).toEqual(split);
  const bad = (how: (layout: { tabs: Record<string, unknown>[] }) => void): l.Layout | null => {
    const copy = structuredClone(split) as unknown as { tabs: Record<string, unknown>[] };
    how(copy);
    return l.parse(JSON.stringify(copy));
  };
  for (const text of [null, "", "null", "{", "[]", '{"tabs":[]}', '{"tabs":[null]}']) expect(l.parse(text)).toBeNull();
  expect(bad((raw) => (raw.tabs[0]!["root"] = { shell: "../../x" }))).toBeNull();
  expect(bad((raw) => raw.tabs.push(raw.tabs[0]!))).toBeNull();
  expect(bad((raw) => (raw.tabs[0]!["root"] = { direction: "row", ratio: "x", first: { shell: "a" }, second: { shell: "b" } }))).toBeNull();
  let deep: unknown = { shell: "s0" };
  for (let n = 1; n < 30; n += 1) deep = { direction: "row", ratio: 0.5, first: { shell: `s${n}` }, second: deep };
  expect(bad((raw) => (raw.tabs[0]!["root"] = deep))).toBeNull();
  expect(bad((raw) => (raw.tabs[0]!["active"] = "gone"))?.tabs[0]?.active).toBe("a");
});

test("shells that others have opened come as tabs behind", () => {
  expect(l.withShells(split, ["a", "z", "bad name"])).toMatchObject({ current: "a", tabs: [{ id: "a" }, { id: "z" }] });
});

test("a tab that has outlived its first shell, and another one for that shell, are two", () => {
  const both = l.withShells(l.closePane(split, "a"), ["a"]);
  expect(new Set(ids(both)).size).toBe(2);
  expect(l.allShells(both)).toEqual(["b", "c", "a"]);
  expect(l.parse(JSON.stringify(both))).toEqual(both);
});

test("labels and names", () => {
  expect([...l.freshName(new Uint8Array([0, 9, 10, 35, 36, 255]))].join("")).toBe("t-09az03");
  const [first, second] = three.tabs;
  expect([l.label(first!, ""), l.label(second!, ""), l.label(first!, "vim"), l.label({ ...first!, name: "Web" }, "vim")]).toEqual(["Terminal", "Terminal 2", "vim", "Web"]);
});
