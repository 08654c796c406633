import { expect, test } from "vitest";
import { actionOf, CHORDS, shownKeys, type KeyPress } from "./chords";

const press = (key: string, fields: Partial<KeyPress> = {}): KeyPress => ({ key, ctrlKey: true, shiftKey: true, altKey: false, metaKey: false, ...fields });

test("each action has one key, and each key one action", () => {
  expect(new Set(CHORDS.map(({ key }) => key)).size).toBe(CHORDS.length);
  expect(new Set(CHORDS.map(({ action }) => action)).size).toBe(CHORDS.length);
  for (const { action, key } of CHORDS) expect(actionOf(press(key.toUpperCase()))).toBe(action);
});

test("the keys of programs and of browsers are left alone", () => {
  for (const key of ["t", "n", "w", "p", "Tab", "ArrowLeft"]) expect(actionOf(press(key))).toBeNull();
  for (const fields of [{ ctrlKey: false }, { shiftKey: false }, { altKey: true }, { metaKey: true }]) expect(actionOf(press("f", fields))).toBeNull();
  expect(actionOf({ ...press("F1"), ctrlKey: false, shiftKey: false })).toBeNull();
});

test("help is where the slash is, whichever key that is", () => {
  expect([actionOf(press("?")), actionOf(press("/"))]).toEqual(["help", "help"]);
  expect(shownKeys("help")).toBe("Ctrl+Shift+/");
});
