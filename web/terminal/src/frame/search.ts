/** The search bar: finds text in the output of the active terminal, the newest first. */

import type { ISearchOptions, SearchAddon } from "@xterm/addon-search";
import { byId, iconButton, make } from "../dom";
import type { Pane } from "../pane";
import type { ThemeName } from "../settings/themes";

const UP = "M6 15l6-6 6 6";
const DOWN = "M6 9l6 6 6-6";
const CLOSE = "M7 7l10 10M17 7L7 17";

const COLOURS: Record<ThemeName, { match: string; active: string }> = {
  dark: { match: "#3b4a2f", active: "#b98a3a" },
  light: { match: "#f3e3b3", active: "#f0b64a" },
  contrast: { match: "#3f3f00", active: "#b36b00" },
};

export class SearchBar {
  private readonly root = byId("search");
  private readonly input = make("input", { type: "text", "aria-label": "Find", placeholder: "Find", autocomplete: "off", spellcheck: "false" });
  private readonly count = make("span", { class: "count", role: "status" });
  private readonly matchCase = this.toggle("Match case", "Aa");
  private readonly regex = this.toggle("Regular expression", ".*");
  private pane: Pane | null = null;
  private addon: SearchAddon | null = null;
  private counting: { dispose(): void } | null = null;

  constructor(
    private readonly active: () => Pane,
    private readonly theme: () => ThemeName,
    private readonly left: () => void,
  ) {
    const form = make("div", { class: "search-row" },
      this.input, this.matchCase, this.regex, this.count,
      iconButton("Previous match", UP, () => void this.find("previous")),
      iconButton("Next match", DOWN, () => void this.find("next")),
      iconButton("Close the search", CLOSE, () => this.close()));
    this.root.append(form);
    this.input.addEventListener("input", () => void this.find("first"));
    this.root.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
      else if (event.key === "Enter" && event.target === this.input) void this.find(event.shiftKey ? "next" : "previous");
      else return;
      event.preventDefault();
    });
  }

  open(): void {
    this.root.hidden = false;
    const selected = this.active().screen.terminal.getSelection();
    if (selected && !selected.includes("\n")) this.input.value = selected;
    this.input.select();
    this.input.focus();
    void this.find("first");
  }

  close(): void {
    this.root.hidden = true;
    this.forget();
    this.left();
  }

  /** Another terminal is the active one now. */
  follow(): void {
    if (!this.root.hidden && this.pane !== this.active()) void this.find("first");
  }

  private forget(): void {
    this.counting?.dispose();
    this.addon?.clearDecorations();
    this.pane = this.addon = this.counting = null;
    this.count.textContent = "";
  }

  private toggle(label: string, text: string): HTMLButtonElement {
    const button = make("button", { type: "button", class: "toggle", "aria-label": label, title: label, "aria-pressed": "false" }, text);
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      void this.find("first");
    });
    return button;
  }

  private async find(which: "first" | "next" | "previous"): Promise<void> {
    const pane = this.active();
    if (pane !== this.pane) {
      this.forget();
      this.pane = pane;
      const addon = await pane.screen.search();
      if (this.pane !== pane) return;
      this.addon = addon;
      this.counting = addon.onDidChangeResults(({ resultIndex, resultCount }) => {
        this.count.textContent = this.input.value ? counted(resultIndex, resultCount) : "";
      });
    }
    const addon = this.addon;
    if (!addon) return;
    const term = this.input.value;
    const on = (button: HTMLElement): boolean => button.getAttribute("aria-pressed") === "true";
    this.input.removeAttribute("aria-invalid");
    if (!term) {
      addon.clearDecorations();
      this.count.textContent = "";
      return;
    }
    if (on(this.regex) && !isRegex(term)) {
      this.input.setAttribute("aria-invalid", "true");
      this.count.textContent = "Not a pattern";
      return;
    }
    const { match, active } = COLOURS[this.theme()];
    const options: ISearchOptions = {
      caseSensitive: on(this.matchCase), regex: on(this.regex),
      decorations: { matchBackground: match, matchOverviewRuler: match, activeMatchBackground: active, activeMatchColorOverviewRuler: active },
    };
    if (which === "first") {
      pane.screen.terminal.clearSelection(); // begins at the newest line
      addon.clearDecorations(); // addon-search 0.16 overlooks changed options otherwise
    }
    const found = which === "next" ? addon.findNext(term, options) : addon.findPrevious(term, options);
    if (!found) this.count.textContent = "None";
  }
}

function counted(index: number, count: number): string {
  if (count === 0) return "None";
  return index < 0 ? `${count}+` : `${index + 1} of ${count}`;
}

function isRegex(text: string): boolean {
  try {
    return Boolean(new RegExp(text));
  } catch {
    return false;
  }
}

