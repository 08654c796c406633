import { expect, test } from "vitest";
import { shellWidths } from "./widths";

/** xterm.js's Unicode 11, as far as the test asks. */
const base = { version: "11", wcwidth: (code: number): 0 | 1 | 2 => (code === 0x4e2d || code === 0x1f600 ? 2 : code === 0x301 ? 0 : 1), charProperties(this: { wcwidth(code: number): number }, code: number) { return this.wcwidth(code); } };

test("widths are those of glibc 2.36, also where Unicode 11 did not know the character", () => {
  const widths = shellWidths(base);
  const of = (text: string): number => widths.wcwidth(text.codePointAt(0) ?? 0);
  expect(widths.version).toBe("14");
  expect(["a", "\u0301", "中", "😀"].map(of)).toEqual([1, 0, 2, 2]);
  expect(["🥲", "🫠", "🟰", "🛝"].map(of)).toEqual([2, 2, 2, 2]); // Unicode 13 and 14
  expect(["\u0898", "\u{1cf00}"].map(of)).toEqual([0, 0]);
  expect(widths.charProperties(0x1f972, 0)).toBe(2); // the base's own method asks for these widths too
});
