/** What a paste holds, and whether to ask before it is typed. Pure. */

const MOST_SHOWN = 200;

/** The text without the control characters that a terminal would act on; tabs and line ends stay.
 *
 * ESC in a paste could end bracketed paste ("\x1b[201~") and have the rest run as if it were typed.
 */
export function clean(text: string): string {
  return text.replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u0080-\u009f]/g, "");
}

export function lines(text: string): string[] {
  return text.replace(/(\r?\n|\r)+$/, "").split(/\r\n|\r|\n/);
}

/** Whether to show the lines first: each but the last would be run at once, as far as is known.
 *
 * @param bracketed the program asked to be told what is pasted, so it runs nothing of it by itself
 */
export function needsAsking(text: string, guarded: boolean, bracketed: boolean): boolean {
  return guarded && !bracketed && lines(text).length > 1;
}

/** The lines as a dialog shows them: the first 200, and how many more there are. */
export function preview(text: string): { shown: string; more: number } {
  const all = lines(text);
  return { shown: all.slice(0, MOST_SHOWN).join("\n"), more: Math.max(0, all.length - MOST_SHOWN) };
}

/** The same text as one line, for a shell that runs what a line end closes. */
export function asOneLine(text: string): string {
  return lines(text).map((line) => line.trim()).filter(Boolean).join(" ");
}
