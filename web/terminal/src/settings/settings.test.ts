import { expect, test, vi } from "vitest";
import { chosenTheme, THEMES } from "./themes";
import { DEFAULTS, goodFont, LiveSettings, parseSettings } from "./settings";

test("what is good is taken, the rest is the default", () => {
  for (const text of [null, "", "{", "3", "null", "[]", '"x"']) expect(parseSettings(text)).toEqual(DEFAULTS);
  const stored = { theme: "light", fontSize: 99, lineHeight: 1.5, cursorStyle: "beam", copyOnSelect: "yes", fontFamily: "x;} body {", future: 1 };
  expect(parseSettings(JSON.stringify(stored))).toEqual({ ...DEFAULTS, theme: "light", lineHeight: 1.5 });
});

test("a font's name cannot end the style it is part of", () => {
  expect(["Fira Code", '"JetBrains Mono", monospace', "Źródło", ""].every(goodFont)).toBe(true);
  expect(["a;b", "a}b", "url(x)", "a\\b", "x".repeat(101)].some(goodFont)).toBe(false);
});

test("changes are kept and told; a store that refuses is no fault", () => {
  const kept = new Map<string, string>();
  const store = { getItem: (key: string) => kept.get(key) ?? null, setItem: (key: string, value: string) => void kept.set(key, value) };
  const told = vi.fn();
  const live = new LiveSettings(store, "k");
  const stop = live.watch(told);
  live.set({ fontSize: 18 });
  live.set({ fontSize: 3 }); // not good: the default
  stop();
  live.set({ theme: "dark" });
  expect(told.mock.calls.map(([settings]) => settings.fontSize)).toEqual([14, 18, 14]);
  expect(new LiveSettings(store, "k").get()).toEqual({ ...DEFAULTS, theme: "dark" });
  const here = new LiveSettings(store, "k");
  const other = new LiveSettings(store, "k"); // of another page
  here.watch(told);
  other.set({ fontSize: 20 });
  here.reread();
  here.reread();
  expect(told.mock.calls.map(([settings]) => settings.fontSize)).toEqual([14, 18, 14, 14, 20]);
  here.set({ theme: "light" });
  expect(new LiveSettings(store, "k").get()).toEqual({ ...DEFAULTS, theme: "light", fontSize: 20 });
  const refusing = { getItem: () => { throw new Error("no"); }, setItem: () => { throw new Error("full"); } };
  const unkept = new LiveSettings(refusing, "k");
  unkept.set({ theme: "light" });
  expect(unkept.get().theme).toBe("light");
});

test("the theme is what was chosen, or what the system prefers", () => {
  const system = (light: boolean, contrast: boolean): string => chosenTheme("system", { light, contrast });
  expect([system(false, false), system(true, false), system(true, true)]).toEqual(["dark", "light", "contrast"]);
  expect(chosenTheme("light", { light: false, contrast: true })).toBe("light");
  for (const theme of Object.values(THEMES)) expect(Object.keys(theme)).toEqual(expect.arrayContaining(Object.keys(THEMES.dark)));
});

/** WCAG 2.2's relative luminance and contrast ratio, of colours as #rrggbb. */
function contrast(one: string, other: string): number {
  const light = [one, other].map((colour) => {
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red! + 0.7152 * green! + 0.0722 * blue!;
  });
  return (Math.max(...light) + 0.05) / (Math.min(...light) + 0.05);
}

test.each([["dark", 4.5], ["light", 4.5], ["contrast", 7]] as const)("the colours of the %s theme are read on its ground", (name, least) => {
  const { background, black: _ground, brightBlack, ...colours } = THEMES[name];
  const texts = Object.entries({ brightBlack, ...colours }).filter(([key]) => !/selection|scrollbar|Accent/.test(key));
  for (const [key, colour] of texts) expect(contrast(colour as string, background!), key).toBeGreaterThanOrEqual(least);
});
