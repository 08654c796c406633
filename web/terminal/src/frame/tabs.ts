/** The row of tabs: shown, chosen, renamed, moved and closed, by mouse and by keys. */

import { icon, make } from "../dom";
import { label, type Layout, type Tab } from "./layout";

const CLOSE = "M7 7l10 10M17 7L7 17";
const DRAGGED = "application/x-dozlab-tab";

export interface TabEvents {
  select(id: string): void;
  close(id: string): void;
  rename(id: string, name: string): void;
  move(id: string, to: number): void;
  /** The focus goes back to the terminal. */
  left(): void;
}

export class Tabs {
  private layout: Layout = { tabs: [], current: "" };
  private renaming = "";

  constructor(
    private readonly list: HTMLElement,
    private readonly titleOf: (shell: string) => string,
    private readonly events: TabEvents,
  ) {
    list.addEventListener("dragover", (event) => {
      if (event.dataTransfer?.types.includes(DRAGGED)) event.preventDefault();
    });
    list.addEventListener("drop", (event) => this.dropped(event));
  }

  show(layout: Layout): void {
    this.layout = layout;
    if (this.renaming) return; // the input stays until it is done
    const focused = this.list.contains(document.activeElement) ? document.activeElement?.closest<HTMLElement>(".tab")?.dataset["tab"] : undefined;
    this.list.replaceChildren(...layout.tabs.map((tab) => this.draw(tab)));
    if (focused !== undefined) this.focus(layout.tabs.some((tab) => tab.id === focused) ? focused : layout.current);
  }

  /** Only the labels may have changed. */
  retitle(): void {
    if (this.renaming) return;
    for (const tab of this.layout.tabs) {
      const item = this.item(tab.id);
      const name = item?.querySelector<HTMLElement>(".tab-name");
      const text = label(tab, this.titleOf(tab.active));
      if (!item || !name || name.textContent === text) continue;
      name.textContent = name.title = text;
      item.querySelector(".tab-close")?.setAttribute("aria-label", `Close ${text}`);
    }
  }

  focus(id: string): void {
    this.item(id)?.querySelector<HTMLElement>(".tab-name")?.focus();
  }

  rename(id: string): void {
    const tab = this.layout.tabs.find((each) => each.id === id);
    const item = this.item(id);
    if (!tab || !item) return;
    this.renaming = id;
    const input = make("input", { class: "tab-input", "aria-label": "Name of the tab", maxlength: "40", value: tab.name || label(tab, this.titleOf(tab.active)) });
    const done = (keep: boolean): void => {
      if (this.renaming !== id) return;
      this.renaming = "";
      if (keep) this.events.rename(id, input.value);
      this.show(this.layout);
      this.events.left();
    };
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") done(true);
      if (event.key === "Escape") done(false);
    });
    input.addEventListener("blur", () => done(true));
    item.replaceChildren(input);
    input.select();
  }

  private draw(tab: Tab): HTMLElement {
    const current = tab.id === this.layout.current;
    const text = label(tab, this.titleOf(tab.active));
    const name = make("button", {
      type: "button", class: "tab-name", title: text, tabindex: current ? "0" : "-1", ...(current ? { "aria-current": "true" } : {}),
      click: () => {
        this.events.select(tab.id);
        this.events.left();
      },
      dblclick: () => this.rename(tab.id),
      keydown: (event) => this.key(event as KeyboardEvent, tab),
    }, text);
    const close = make("button", { type: "button", class: "tab-close", "aria-label": `Close ${text}`, tabindex: "-1", click: () => this.events.close(tab.id) }, icon(CLOSE));
    const item = make("li", { class: "tab", draggable: "true" }, name, close);
    item.dataset["tab"] = tab.id;
    item.addEventListener("dragstart", (event) => event.dataTransfer?.setData(DRAGGED, tab.id));
    item.addEventListener("auxclick", (event) => {
      if (event.button === 1) this.events.close(tab.id);
    });
    return item;
  }

  private key(event: KeyboardEvent, tab: Tab): void {
    const at = this.layout.tabs.indexOf(tab);
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? 0;
    const moves = event.ctrlKey && event.shiftKey;
    if (step && moves) this.events.move(tab.id, at + step);
    else if (step) this.choose(at + step);
    else if (event.key === "Home") this.choose(0);
    else if (event.key === "End") this.choose(this.layout.tabs.length - 1);
    else if (event.key === "Delete") this.events.close(tab.id);
    else if (event.key === "F2") this.rename(tab.id);
    else if (event.key === "Escape") this.events.left();
    else return;
    event.preventDefault();
  }

  private choose(at: number): void {
    const tab = this.layout.tabs[(at + this.layout.tabs.length) % this.layout.tabs.length];
    if (!tab) return;
    this.events.select(tab.id);
    this.focus(tab.id);
  }

  private dropped(event: DragEvent): void {
    const id = event.dataTransfer?.getData(DRAGGED);
    if (!id) return;
    event.preventDefault();
    const others = this.layout.tabs.filter((tab) => tab.id !== id);
    const before = others.findIndex((tab) => {
      const box = this.item(tab.id)?.getBoundingClientRect();
      return box !== undefined && event.clientX < box.left + box.width / 2;
    });
    this.events.move(id, before < 0 ? others.length : before);
  }

  private item(id: string): HTMLElement | null {
    return this.list.querySelector<HTMLElement>(`[data-tab="${CSS.escape(id)}"]`);
  }
}
