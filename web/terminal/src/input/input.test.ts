import { expect, test } from "vitest";
import { KEYS, keySends, withModifiers, type Key } from "./keyrow";
import { MOST_COPIED, read } from "./osc52";
import { asOneLine, clean, needsAsking, preview } from "./paste";

test("a paste is asked about only when a line would run unseen", () => {
  expect(needsAsking("ls\nrm -r x", true, false)).toBe(true);
  expect(needsAsking("ls\r\nid\r\n", true, false)).toBe(true);
  expect(needsAsking("ls\n\n", true, false)).toBe(false); // one line, with its end
  expect(needsAsking("ls\nid", true, true)).toBe(false); // the program knows that it is a paste
  expect(needsAsking("ls\nid", false, false)).toBe(false);
});

test("a paste cannot bring control characters", () => {
  expect(clean("a\x1b[201~b\u009b31m\x07\x00\tc\r\nd\x7f é中😀")).toBe("a[201~b31m\tc\r\nd é中😀");
});

test("many lines are shown in part, and can become one", () => {
  const { shown, more } = preview(Array.from({ length: 250 }, (_, n) => `line ${n}`).join("\n"));
  expect([shown.split("\n").length, more]).toEqual([200, 50]);
  expect(asOneLine("for x in 1 2\r\n\r\n  do\n")).toBe("for x in 1 2 do");
});

const b64 = (text: string): string => btoa(String.fromCharCode(...new TextEncoder().encode(text)));

test("OSC 52 writes text", () => {
  expect(read(`c;${b64("é中😀")}`)).toEqual({ kind: "copy", text: "é中😀" });
  expect(read(`;${b64("x")}`)).toEqual({ kind: "copy", text: "x" });
  expect(read(`pc;${b64("x")}`)).toEqual({ kind: "copy", text: "x" });
});

test("OSC 52 never reads, clears or carries what is no text", () => {
  for (const payload of ["c;?", ";?", "c;", "c", "", "c;@@@", "z;eA==", `c;${btoa("\xff\xfe")}`]) expect(read(payload)).toEqual({ kind: "ignored" });
});

test("OSC 52 has a limit", () => {
  expect(read(`c;${btoa("x".repeat(MOST_COPIED))}`).kind).toBe("copy");
  expect(read(`c;${btoa("x".repeat(MOST_COPIED + 1))}`).kind).toBe("too-large");
  expect(read(`c;${"A".repeat(10_000_000)}`).kind).toBe("too-large");
});

const none = { ctrl: false, alt: false };
const key = (label: string): Key => KEYS.find((each) => each.label === label)!;

test("the keys of the row send what a keyboard's would", () => {
  expect(["Esc", "Tab", "^C", "|", "~", "/"].map((label) => keySends(key(label), none, false))).toEqual(["\x1b", "\t", "\x03", "|", "~", "/"]);
  expect(["↑", "↓", "→", "←"].map((label) => keySends(key(label), none, false))).toEqual(["\x1b[A", "\x1b[B", "\x1b[C", "\x1b[D"]);
  expect(keySends(key("↑"), none, true)).toBe("\x1bOA");
  expect(keySends(key("→"), { ctrl: true, alt: false }, true)).toBe("\x1b[1;5C");
  expect(keySends(key("←"), { ctrl: false, alt: true }, false)).toBe("\x1b[1;3D");
  expect(keySends(key("Ctrl"), none, false)).toBe("");
});

test("a held Ctrl or Alt changes the next character", () => {
  const ctrl = (char: string): string => withModifiers(char, { ctrl: true, alt: false });
  expect(["c", "C", "[", " ", "?", "/", "1", "é"].map(ctrl)).toEqual(["\x03", "\x03", "\x1b", "\0", "\x7f", "\x1f", "1", "é"]);
  expect(withModifiers("b", { ctrl: false, alt: true })).toBe("\x1bb");
  expect(withModifiers("pasted text", { ctrl: true, alt: false })).toBe("pasted text");
});
