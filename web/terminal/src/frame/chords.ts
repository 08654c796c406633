/** The page's own keys. Pure.
 *
 * All are Ctrl+Shift and a key for which xterm.js sends nothing to the program, and none is one that browsers keep for
 * themselves (Ctrl+Shift+T, N, W, P). So no program loses a key: F1 and Ctrl+F stay the program's.
 */

export type Action = "new" | "split-right" | "split-down" | "close" | "next-tab" | "previous-tab" | "next-pane" | "find" | "full-screen" | "menu" | "help" | "copy" | "paste";

export interface Chord {
  action: Action;
  /** KeyboardEvent.key in lower case. */
  key: string;
  /** What the key is called. */
  shown: string;
  what: string;
}

export const CHORDS: readonly Chord[] = [
  { action: "new", key: "s", shown: "S", what: "New terminal in a tab" },
  { action: "split-right", key: "e", shown: "E", what: "Split right" },
  { action: "split-down", key: "o", shown: "O", what: "Split down" },
  { action: "close", key: "x", shown: "X", what: "Close this terminal" },
  { action: "next-tab", key: "l", shown: "L", what: "Next tab" },
  { action: "previous-tab", key: "h", shown: "H", what: "Previous tab" },
  { action: "next-pane", key: "g", shown: "G", what: "Next pane of a split tab" },
  { action: "find", key: "f", shown: "F", what: "Find in the output" },
  { action: "full-screen", key: "u", shown: "U", what: "Full screen" },
  { action: "copy", key: "c", shown: "C", what: "Copy the selection" },
  { action: "paste", key: "v", shown: "V", what: "Paste" },
  { action: "menu", key: "m", shown: "M", what: "Menu (leaves the terminal by keyboard)" },
  { action: "help", key: "?", shown: "/", what: "These keys" },
];

export type KeyPress = Pick<KeyboardEvent, "key" | "ctrlKey" | "shiftKey" | "altKey" | "metaKey">;

/** The page's action for a key; null for a key that is the program's. */
export function actionOf(event: KeyPress): Action | null {
  if (!event.ctrlKey || !event.shiftKey || event.altKey || event.metaKey) return null;
  const key = event.key === "/" ? "?" : event.key.toLowerCase(); // "/" itself needs Shift on some keyboards
  return CHORDS.find((chord) => chord.key === key)?.action ?? null;
}

export function shownKeys(action: Action): string {
  const chord = CHORDS.find((each) => each.action === action);
  return chord ? `Ctrl+Shift+${chord.shown}` : "";
}
