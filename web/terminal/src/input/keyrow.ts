/** The keys that a phone's keyboard lacks: which there are, and what they send. Pure. */

export interface Modifiers {
  ctrl: boolean;
  alt: boolean;
}

export type Key = { label: string; name: string } & ({ send: string } | { arrow: "A" | "B" | "C" | "D" } | { modifier: keyof Modifiers });

/** Six columns of two: the arrows form their usual shape. */
export const KEYS: readonly Key[] = [
  { label: "Esc", name: "Escape", send: "\x1b" },
  { label: "^C", name: "Control C", send: "\x03" },
  { label: "|", name: "Pipe", send: "|" },
  { label: "~", name: "Tilde", send: "~" },
  { label: "↑", name: "Up", arrow: "A" },
  { label: "/", name: "Slash", send: "/" },
  { label: "Tab", name: "Tab", send: "\t" },
  { label: "Ctrl", name: "Control", modifier: "ctrl" },
  { label: "Alt", name: "Alt", modifier: "alt" },
  { label: "←", name: "Left", arrow: "D" },
  { label: "↓", name: "Down", arrow: "B" },
  { label: "→", name: "Right", arrow: "C" },
];

/** What a key of the row sends (xterm's ctlseqs, "PC-Style Function Keys").
 *
 * @param application the program has switched the cursor keys over (DECCKM)
 */
export function keySends(key: Key, held: Modifiers, application: boolean): string {
  if ("modifier" in key) return "";
  if ("send" in key) return withModifiers(key.send, held);
  const modifier = 1 + (held.alt ? 2 : 0) + (held.ctrl ? 4 : 0);
  if (modifier > 1) return `\x1b[1;${modifier}${key.arrow}`;
  return `\x1b${application ? "O" : "["}${key.arrow}`;
}

/** What was typed while Ctrl or Alt of the row is held: Ctrl makes a control character, Alt puts ESC before. */
export function withModifiers(typed: string, held: Modifiers): string {
  let data = typed;
  if (held.ctrl && [...data].length === 1) data = control(data);
  return held.alt ? `\x1b${data}` : data;
}

function control(char: string): string {
  const code = char.toUpperCase().charCodeAt(0);
  if (char === " ") return "\0";
  if (char === "?") return "\x7f";
  if (char === "/") return "\x1f"; // as xterm does
  return code >= 0x40 && code <= 0x5f ? String.fromCharCode(code - 0x40) : char;
}
