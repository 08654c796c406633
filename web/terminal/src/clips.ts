/** What goes to the clipboard and comes from it: by the user, and by programs (OSC 52). */

import { askForText, askToPaste } from "./frame/dialogs";
import { copy } from "./input/clipboard";
import type { Wish } from "./input/osc52";
import type { Pane } from "./pane";
import type { LiveSettings } from "./settings/settings";

export class Clips {
  constructor(
    private readonly active: () => Pane,
    private readonly settings: LiveSettings,
    private readonly say: (text: string, action?: { label: string; run(): void }) => void,
  ) {}

  async copy(text: string): Promise<void> {
    this.say((await copy(text)) ? "Copied." : "The browser did not let the page copy.");
  }

  /** By its key. */
  copySelection(): void {
    const text = this.active().screen.terminal.getSelection();
    if (text) void this.copy(text);
    else this.say("Nothing is selected. The menu copies the whole screen.");
  }

  /** From the menu: by touch or by keys alone nothing can be selected. */
  copySelectionOrScreen(): void {
    const { screen } = this.active();
    const text = screen.terminal.getSelection() || screen.text().trimEnd();
    if (text) void this.copy(text);
  }

  /** From the menu: phones have no key for it. */
  async paste(): Promise<void> {
    const pane = this.active();
    let text: string;
    try {
      text = await navigator.clipboard.readText(); // which plain http on a network lacks
    } catch {
      text = await askForText();
    }
    this.active().focus();
    pane.screen.paste(text);
  }

  /** Shows many lines before they are pasted. */
  async ask(text: string, go: (text: string) => void): Promise<void> {
    const { text: wanted, again } = await askToPaste(text);
    if (!again) this.settings.set({ pasteGuard: false });
    if (wanted) go(wanted);
    this.active().focus();
  }

  /** A program asks for a text in the clipboard. */
  programCopies(wish: Wish): void {
    if (wish.kind === "ignored" || !this.settings.get().programCopy) return;
    if (wish.kind === "too-large") return this.say("A program wanted to copy more than 100 kB: nothing was copied.");
    const { text } = wish;
    void copy(text).then((done) => {
      if (done) this.say(`A program has copied ${text.length} characters.`);
      else this.say(`A program wants to copy ${text.length} characters.`, { label: "Copy", run: () => void this.copy(text) });
    });
  }
}
