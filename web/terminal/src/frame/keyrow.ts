/** The row of keys that a phone's keyboard lacks. Ctrl and Alt hold for one key, or until they are tapped again. */

import { byId, make } from "../dom";
import { KEYS, keySends, withModifiers, type Key, type Modifiers } from "../input/keyrow";
import type { Pane } from "../pane";

export class KeyRow {
  private held: Modifiers = { ctrl: false, alt: false };
  private readonly modifiers = new Map<keyof Modifiers, HTMLElement>();

  constructor(private readonly active: () => Pane) {
    const row = byId("key-row");
    for (const key of KEYS) {
      const button = make("button", { type: "button", "aria-label": key.name, click: () => this.press(key) }, key.label);
      if ("modifier" in key) {
        this.modifiers.set(key.modifier, button);
        button.setAttribute("aria-pressed", "false");
      }
      row.append(button);
    }
    row.addEventListener("pointerdown", (event) => event.preventDefault()); // the terminal keeps the focus, and the phone its keyboard
  }

  /** What was typed, with what is held; then nothing is held any more. */
  apply(data: string): string {
    if (!this.held.ctrl && !this.held.alt) return data;
    const changed = withModifiers(data, this.held);
    this.hold({ ctrl: false, alt: false });
    return changed;
  }

  private press(key: Key): void {
    if ("modifier" in key) {
      this.hold({ ...this.held, [key.modifier]: !this.held[key.modifier] });
      return;
    }
    const pane = this.active();
    pane.type(keySends(key, this.held, pane.screen.terminal.modes.applicationCursorKeysMode));
    this.hold({ ctrl: false, alt: false });
  }

  private hold(held: Modifiers): void {
    this.held = held;
    for (const [name, button] of this.modifiers) button.setAttribute("aria-pressed", String(held[name]));
  }
}
