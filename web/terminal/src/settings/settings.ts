/** What the user can set, and how it is read out of what was stored. Pure; the store itself is given. */

export interface Settings {
  theme: "system" | "dark" | "light" | "contrast";
  /** Pixels. */
  fontSize: number;
  /** A font of this computer; "" for the page's own choice. */
  fontFamily: string;
  lineHeight: number;
  cursorStyle: "block" | "bar" | "underline";
  cursorBlink: boolean;
  /** What is selected is copied at once. */
  copyOnSelect: boolean;
  /** Asks before many lines are pasted. */
  pasteGuard: boolean;
  /** Programs may put text into the clipboard (OSC 52). */
  programCopy: boolean;
  /** The row of keys a phone lacks: on touch devices, always or never. */
  keyRow: "auto" | "on" | "off";
  screenReader: boolean;
  /** On a Mac the Option key is Alt for programs; else it types what is printed beside the letters, as |, @ and [ on many keyboards. */
  optionIsMeta: boolean;
  /** How wide characters are: as the shell counts, or whole graphemes. */
  widths: "shell" | "graphemes";
}

export const DEFAULTS: Settings = {
  theme: "system", fontSize: 14, fontFamily: "", lineHeight: 1.2, cursorStyle: "block", cursorBlink: true,
  copyOnSelect: false, pasteGuard: true, programCopy: true, keyRow: "auto", screenReader: false, optionIsMeta: false, widths: "shell",
};

export const CHOICES = {
  theme: ["system", "dark", "light", "contrast"],
  cursorStyle: ["block", "bar", "underline"],
  keyRow: ["auto", "on", "off"],
  widths: ["shell", "graphemes"],
} as const;

export const RANGES = { fontSize: [8, 32], lineHeight: [1, 2] } as const;

/** Each setting that is good as stored, else its default. */
export function parseSettings(text: string | null): Settings {
  let raw: Record<string, unknown> = {};
  try {
    const found: unknown = JSON.parse(text ?? "{}");
    if (typeof found === "object" && found !== null) raw = found as Record<string, unknown>;
  } catch {
    // damaged: the defaults
  }
  const good = Object.entries(DEFAULTS).map(([name, fallback]) => [name, valid(name, raw[name], fallback) ? raw[name] : fallback]);
  return Object.fromEntries(good) as unknown as Settings;
}

function valid(name: string, value: unknown, fallback: unknown): boolean {
  if (typeof value !== typeof fallback) return false;
  if (name in CHOICES) return (CHOICES[name as keyof typeof CHOICES] as readonly unknown[]).includes(value);
  if (name in RANGES) {
    const [least, most] = RANGES[name as keyof typeof RANGES];
    return (value as number) >= least && (value as number) <= most;
  }
  return name !== "fontFamily" || goodFont(value as string);
}

/** A font's name, or several: nothing that could end the CSS value it becomes part of. */
export function goodFont(name: string): boolean {
  return name.length <= 100 && /^[\p{L}\p{N} ,'"_-]*$/u.test(name);
}

/** Settings that live: kept in a store, told to whoever listens. */
export class LiveSettings {
  private now: Settings;
  private readonly listeners = new Set<(settings: Settings) => void>();

  constructor(
    private readonly store: Pick<Storage, "getItem" | "setItem"> | null,
    private readonly key: string,
  ) {
    this.now = parseSettings(this.read());
  }

  get(): Settings {
    return this.now;
  }

  set(change: Partial<Settings>): void {
    this.now = parseSettings(JSON.stringify({ ...this.now, ...change }));
    try {
      this.store?.setItem(this.key, JSON.stringify(this.now));
    } catch {
      // the store is full or forbidden: the settings hold until the page goes
    }
    this.tell();
  }

  /** Takes what another page has stored, so that the next change here does not undo it. */
  reread(): void {
    const found = parseSettings(this.read());
    if (JSON.stringify(found) === JSON.stringify(this.now)) return;
    this.now = found;
    this.tell();
  }

  private tell(): void {
    for (const listener of [...this.listeners]) listener(this.now);
  }

  /** Calls with the settings now and after each change; returns what undoes it. */
  watch(listener: (settings: Settings) => void): () => void {
    this.listeners.add(listener);
    listener(this.now);
    return () => this.listeners.delete(listener);
  }

  private read(): string | null {
    try {
      return this.store?.getItem(this.key) ?? null;
    } catch {
      return null;
    }
  }
}
