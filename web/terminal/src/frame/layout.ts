/** Tabs and how each is split into panes, as values: every change returns a new layout. Pure; no elements here. */

export type Direction = "row" | "column";

/** A pane, by the name of its shell. */
export interface Leaf {
  shell: string;
}

export interface Split {
  /** "row": side by side; "column": one above the other. */
  direction: Direction;
  /** The first part's share, 0.1 to 0.9. */
  ratio: number;
  first: Node;
  second: Node;
}

export type Node = Leaf | Split;

export interface Tab {
  id: string;
  /** For its label, as long as it has no name: "Terminal 2". */
  number: number;
  /** What the user called it; "" for none. */
  name: string;
  root: Node;
  /** The shell of the pane that has, or would have, the focus. */
  active: string;
}

export interface Layout {
  tabs: readonly Tab[];
  /** Id of the tab that is shown. */
  current: string;
}

export interface Box {
  /** Shares of the whole, 0 to 1. */
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface Divider extends Box {
  /** Where its split is: "0" and "1" per step down, "" for the root. */
  path: string;
  direction: Direction;
  ratio: number;
  /** The box that it divides. */
  of: Box;
}

export const FIRST_SHELL = "main";
const MOST_NAME = 40;
const MOST_DEPTH = 8;
const SHELL = /^[a-z0-9][a-z0-9-]{0,31}$/;

const isSplit = (node: Node): node is Split => "direction" in node;
const clampRatio = (ratio: number): number => Math.min(0.9, Math.max(0.1, ratio));

export function shellsOf(node: Node): string[] {
  return isSplit(node) ? [...shellsOf(node.first), ...shellsOf(node.second)] : [node.shell];
}

export function allShells(layout: Layout): string[] {
  return layout.tabs.flatMap((tab) => shellsOf(tab.root));
}

export function currentTab(layout: Layout): Tab {
  const found = layout.tabs.find((tab) => tab.id === layout.current) ?? layout.tabs[0];
  if (!found) throw new Error("a layout has at least one tab");
  return found;
}

export function single(shell: string): Layout {
  return addTab({ tabs: [], current: "" }, shell);
}

/** Adds a tab at the end, and shows it unless told not to. */
export function addTab(layout: Layout, shell: string, show = true): Layout {
  const taken = new Set(layout.tabs.map((tab) => tab.number));
  let number = 1;
  while (taken.has(number)) number += 1;
  let id = shell; // of its first pane; a tab may outlive that one, and another come for it
  while (layout.tabs.some((tab) => tab.id === id)) id = `${id.slice(0, 31)}x`;
  const tab: Tab = { id, number, name: "", root: { shell }, active: shell };
  return { tabs: [...layout.tabs, tab], current: show || !layout.current ? tab.id : layout.current };
}

function change(layout: Layout, id: string, how: (tab: Tab) => Tab): Layout {
  return { ...layout, tabs: layout.tabs.map((tab) => (tab.id === id ? how(tab) : tab)) };
}

export function selectTab(layout: Layout, id: string): Layout {
  return layout.tabs.some((tab) => tab.id === id) ? { ...layout, current: id } : layout;
}

/** Shows the next tab, or the one before (-1); round at the ends. */
export function stepTab(layout: Layout, by: number): Layout {
  const at = layout.tabs.findIndex((tab) => tab.id === layout.current);
  const next = layout.tabs[(at + by + layout.tabs.length) % layout.tabs.length];
  return next ? { ...layout, current: next.id } : layout;
}

export function renameTab(layout: Layout, id: string, name: string): Layout {
  const clean = [...name.replace(/[\p{Cc}\p{Cf}]/gu, "").trim()].slice(0, MOST_NAME).join("");
  return change(layout, id, (tab) => ({ ...tab, name: clean }));
}

/** Moves a tab to a place among the tabs; beyond the ends is at the end. */
export function moveTab(layout: Layout, id: string, to: number): Layout {
  const tab = layout.tabs.find((each) => each.id === id);
  if (!tab) return layout;
  const others = layout.tabs.filter((each) => each !== tab);
  const at = Math.min(Math.max(0, to), others.length);
  return { ...layout, tabs: [...others.slice(0, at), tab, ...others.slice(at)] };
}

export function tabOf(layout: Layout, shell: string): Tab | undefined {
  return layout.tabs.find((tab) => shellsOf(tab.root).includes(shell));
}

/** Gives half of a shell's pane to a new one, which becomes the active one. */
export function splitPane(layout: Layout, shell: string, direction: Direction, fresh: string): Layout {
  const put = (node: Node): Node => {
    if (isSplit(node)) return { ...node, first: put(node.first), second: put(node.second) };
    return node.shell === shell ? { direction, ratio: 0.5, first: node, second: { shell: fresh } } : node;
  };
  const tab = tabOf(layout, shell);
  return tab ? change(layout, tab.id, (each) => ({ ...each, root: put(each.root), active: fresh })) : layout;
}

/** Takes a shell's pane away; the tab goes with its last one, and the last tab leaves a fresh one. */
export function closePane(layout: Layout, shell: string): Layout {
  const tab = tabOf(layout, shell);
  if (!tab) return layout;
  const drop = (node: Node): Node | null => {
    if (!isSplit(node)) return node.shell === shell ? null : node;
    const first = drop(node.first);
    const second = drop(node.second);
    return first && second ? { ...node, first, second } : (first ?? second);
  };
  const root = drop(tab.root);
  if (root) {
    const left = shellsOf(root);
    const beside = shellsOf(tab.root)[Math.max(0, shellsOf(tab.root).indexOf(shell) - 1)];
    const active = tab.active !== shell ? tab.active : left.find((each) => each === beside) ?? left[0] ?? "";
    return change(layout, tab.id, (each) => ({ ...each, root, active }));
  }
  const at = layout.tabs.indexOf(tab);
  const tabs = layout.tabs.filter((each) => each !== tab);
  if (tabs.length === 0) return single(FIRST_SHELL);
  const neighbour = tabs[Math.min(at, tabs.length - 1)];
  return { tabs, current: layout.current === tab.id && neighbour ? neighbour.id : layout.current };
}

/** Makes a shell's pane the active one, and shows its tab. */
export function activate(layout: Layout, shell: string): Layout {
  const tab = tabOf(layout, shell);
  return tab ? { ...change(layout, tab.id, (each) => ({ ...each, active: shell })), current: tab.id } : layout;
}

/** Makes the next pane of the current tab the active one. */
export function stepPane(layout: Layout): Layout {
  const tab = currentTab(layout);
  const shells = shellsOf(tab.root);
  return activate(layout, shells[(shells.indexOf(tab.active) + 1) % shells.length] ?? tab.active);
}

/** Sets the share of the split at `path` in a tab. */
export function setRatio(layout: Layout, id: string, path: string, ratio: number): Layout {
  const set = (node: Node, rest: string): Node => {
    if (!isSplit(node)) return node;
    if (rest === "") return { ...node, ratio: clampRatio(ratio) };
    const part = rest[0] === "0" ? "first" : "second";
    return { ...node, [part]: set(node[part], rest.slice(1)) };
  };
  return change(layout, id, (tab) => ({ ...tab, root: set(tab.root, path) }));
}

const WHOLE: Box = { x: 0, y: 0, width: 1, height: 1 };

function halves({ direction, ratio }: Split, of: Box): [Box, Box] {
  if (direction === "row") {
    const width = of.width * ratio;
    return [{ ...of, width }, { ...of, x: of.x + width, width: of.width - width }];
  }
  const height = of.height * ratio;
  return [{ ...of, height }, { ...of, y: of.y + height, height: of.height - height }];
}

/** Where each shell's pane is. */
export function boxes(node: Node, of: Box = WHOLE): Map<string, Box> {
  if (!isSplit(node)) return new Map([[node.shell, of]]);
  const [first, second] = halves(node, of);
  return new Map([...boxes(node.first, first), ...boxes(node.second, second)]);
}

/** The lines between panes, which can be moved. */
export function dividers(node: Node, path = "", of: Box = WHOLE): Divider[] {
  if (!isSplit(node)) return [];
  const [first, second] = halves(node, of);
  const line = node.direction === "row" ? { ...second, width: 0 } : { ...second, height: 0 };
  const own: Divider = { ...line, path, direction: node.direction, ratio: node.ratio, of };
  return [own, ...dividers(node.first, `${path}0`, first), ...dividers(node.second, `${path}1`, second)];
}

/** A layout out of what was stored; null when there is none or it is damaged. */
export function parse(text: string | null): Layout | null {
  try {
    const raw = JSON.parse(text ?? "null") as Layout | null;
    if (!raw || !Array.isArray(raw.tabs) || raw.tabs.length === 0 || raw.tabs.length > 100) return null;
    const tabs = raw.tabs.map(parseTab);
    const shells = tabs.flatMap((tab) => shellsOf(tab.root));
    if (new Set(shells).size !== shells.length || new Set(tabs.map((tab) => tab.id)).size !== tabs.length) return null;
    const current = tabs.some((tab) => tab.id === raw.current) ? raw.current : tabs[0]?.id ?? "";
    return { tabs, current };
  } catch {
    return null;
  }
}

function parseTab(raw: Tab): Tab {
  const root = parseNode(raw.root, 0);
  const shells = shellsOf(root);
  const name = typeof raw.name === "string" ? raw.name.slice(0, 4 * MOST_NAME) : "";
  if (!SHELL.test(raw.id) || !Number.isInteger(raw.number) || raw.number < 1) throw new Error("a damaged tab");
  return { id: raw.id, number: raw.number, name, root, active: shells.includes(raw.active) ? raw.active : shells[0] ?? "" };
}

function parseNode(raw: Node, depth: number): Node {
  if (depth > MOST_DEPTH) throw new Error("split too often");
  if (!isSplit(raw)) {
    if (!SHELL.test(raw.shell)) throw new Error("no name of a shell");
    return { shell: raw.shell };
  }
  if ((raw.direction !== "row" && raw.direction !== "column") || !Number.isFinite(raw.ratio)) throw new Error("a damaged split");
  const { direction } = raw;
  return { direction, ratio: clampRatio(raw.ratio), first: parseNode(raw.first, depth + 1), second: parseNode(raw.second, depth + 1) };
}

/** Adds a tab, not shown, for each shell the server has and the layout lacks: somebody else has opened it. */
export function withShells(layout: Layout, served: readonly string[]): Layout {
  const known = new Set(allShells(layout));
  return served.filter((name) => !known.has(name) && SHELL.test(name)).reduce((all, name) => addTab(all, name, false), layout);
}

/** A name for a new shell that nobody else gives: two browsers open tabs without asking each other. */
export function freshName(bytes: Uint8Array): string {
  return `t-${[...bytes].map((byte) => (byte % 36).toString(36)).join("")}`;
}

export function label(tab: Tab, title: string): string {
  return tab.name || title || (tab.number === 1 ? "Terminal" : `Terminal ${tab.number}`);
}
