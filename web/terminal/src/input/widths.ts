/** How many cells a character takes: as the C library of the shell counts, so that both put the cursor in the same place. */

import { Unicode11Addon } from "@xterm/addon-unicode11";
import type { IUnicodeVersionProvider, Terminal } from "@xterm/xterm";

export const SHELL_WIDTHS = "14";

/** First and last code points that glibc 2.36 (Debian 12; Unicode 14) counts as 2 cells and xterm.js's Unicode 11 as 1: measured over all of them. */
const WIDE = ranges(
  "31bb-31bf 3248-324f 4dc0-4dff 16ff0-16ff1 18af3-18cd5 18d00-18d08 1aff0-1aff3 1aff5-1affb 1affd-1affe 1b11f-1b122 1f6d6-1f6d7 1f6dd-1f6df 1f6fb-1f6fc " +
    "1f7f0 1f90c 1f972 1f977-1f979 1f9a3-1f9a4 1f9ab-1f9ad 1f9cb-1f9cc 1fa74 1fa7b-1fa7c 1fa83-1fa86 1fa96-1faac 1fab0-1faba 1fac0-1fac5 1fad0-1fad9 1fae0-1fae7 1faf0-1faf6",
);
/** The same for marks that glibc counts as 0. */
const MARKS = ranges(
  "898-89f 8ca-8d2 b55 c3c d81 180f 1abf-1ace 1dfa a82c d7b0-d7c6 d7cb-d7fb 10eab-10eac 10f82-10f85 11070 11073-11074 110c2 111cf 1193b-1193c 1193e 11943 16fe4 1cf00-1cf2d 1cf30-1cf46 1e2ae",
);

function ranges(text: string): [number, number][] {
  return text.split(" ").map((range) => {
    const [first, last = first] = range.split("-").map((hex) => Number.parseInt(hex, 16));
    return [first ?? 0, last ?? 0];
  });
}

const within = (list: readonly [number, number][], code: number): boolean => list.some(([first, last]) => first <= code && code <= last);

/** The measured differences on top of another provider's widths. */
export function shellWidths(base: IUnicodeVersionProvider): IUnicodeVersionProvider {
  const wcwidth = (code: number): 0 | 1 | 2 => {
    if (code < 0x898) return base.wcwidth(code);
    return within(WIDE, code) ? 2 : within(MARKS, code) ? 0 : base.wcwidth(code);
  };
  return Object.create(base, { version: { value: SHELL_WIDTHS }, wcwidth: { value: wcwidth } }) as IUnicodeVersionProvider;
}

/** Makes these widths the terminal's. */
export function useShellWidths(terminal: Terminal): void {
  if (!terminal.unicode.versions.includes(SHELL_WIDTHS)) {
    const catcher = { unicode: { register: (base: IUnicodeVersionProvider) => terminal.unicode.register(shellWidths(base)) } };
    new Unicode11Addon().activate(catcher as unknown as Terminal);
  }
  terminal.unicode.activeVersion = SHELL_WIDTHS;
}

/** Makes whole graphemes one or two cells: prettier, and in bash the cursor is then beside the text where there are such emoji. */
export async function useGraphemes(terminal: Terminal, still: () => boolean): Promise<void> {
  const version = "15-graphemes";
  if (!terminal.unicode.versions.includes(version)) {
    const { UnicodeGraphemesAddon } = await import("@xterm/addon-unicode-graphemes");
    if (!terminal.unicode.versions.includes(version)) terminal.loadAddon(new UnicodeGraphemesAddon());
  }
  if (still()) terminal.unicode.activeVersion = version;
  else useShellWidths(terminal);
}
