/** The row of tabs: shown, chosen, renamed, moved and closed, by mouse and by keys. */

import { icon, make } from "../dom";
import { label, type Layout } from "./layout";

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

/** A tab's elements; they stay as long as the tab does, so that nothing is changed under a press of the mouse. */
interface Parts {
  item: HTMLElement;
  name: HTMLElement;
  close: HTMLElement;
}

export class Tabs {
  private readonly parts = new Map<string, Parts>();
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
    const moved = layout.current !== this.layout.current || layout.tabs.length !== this.layout.tabs.length;
    this.layout = layout;
    if (this.renaming) return; // the input stays until it is done
    const focused = this.list.contains(document.activeElement) ? document.activeElement?.closest<HTMLElement>(".tab")?.dataset["tab"] : undefined;
    for (const [id, { item }] of this.parts) {
      if (layout.tabs.some((tab) => tab.id === id)) continue;
      item.remove();
      this.parts.delete(id);
    }
    layout.tabs.forEach((tab, at) => {
      const { item, name } = this.parts.get(tab.id) ?? this.draw(tab.id);
      if (this.list.children[at] !== item) this.list.insertBefore(item, this.list.children[at] ?? null);
      const current = tab.id === layout.current;
      name.tabIndex = current ? 0 : -1;
      if (current) name.setAttribute("aria-current", "true");
      else name.removeAttribute("aria-current");
    });
    this.retitle();
    if (moved) this.parts.get(layout.current)?.item.scrollIntoView({ block: "nearest", inline: "nearest" }); // there may be more than fit
    if (focused !== undefined && !this.list.contains(document.activeElement)) this.focus(this.parts.has(focused) ? focused : layout.current);
  }

  /** Only the labels may have changed. */
  retitle(): void {
    if (this.renaming) return;
    for (const tab of this.layout.tabs) {
      const parts = this.parts.get(tab.id);
      const text = label(tab, this.titleOf(tab.active));
      if (!parts || parts.name.textContent === text) continue;
      const { name, close } = parts;
      name.textContent = name.title = text;
      close.setAttribute("aria-label", `Close ${text}`);
    }
  }

  focus(id: string): void {
    this.parts.get(id)?.name.focus();
  }

  rename(id: string): void {
    const tab = this.layout.tabs.find((each) => each.id === id);
    const parts = this.parts.get(id);
    if (!tab || !parts || this.renaming) return;
    this.renaming = id;
    const input = make("input", { class: "tab-input", "aria-label": "Name of the tab", maxlength: "40", value: tab.name || label(tab, this.titleOf(tab.active)) });
    const done = (keep: boolean, leave: boolean): void => {
      if (this.renaming !== id) return;
      this.renaming = "";
      parts.item.replaceChildren(parts.name, parts.close);
      if (keep) this.events.rename(id, input.value);
      this.show(this.layout);
      if (leave) this.events.left();
    };
    input.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") done(true, true);
      if (event.key === "Escape") done(false, true);
    });
    input.addEventListener("blur", (event) => done(true, event.relatedTarget === null)); // else what was clicked has the focus
    parts.item.replaceChildren(input);
    input.select();
  }

  private draw(id: string): Parts {
    const name = make("button", {
      type: "button", class: "tab-name",
      click: () => {
        this.events.select(id);
        this.events.left();
      },
      dblclick: () => this.rename(id),
      keydown: (event) => this.key(event as KeyboardEvent, id),
    });
    const close = make("button", { type: "button", class: "tab-close", tabindex: "-1", click: () => this.events.close(id) }, icon(CLOSE));
    const item = make("li", { class: "tab", draggable: "true" }, name, close);
    item.dataset["tab"] = id;
    item.addEventListener("dragstart", (event) => event.dataTransfer?.setData(DRAGGED, id));
    item.addEventListener("auxclick", (event) => {
      if (event.button === 1) this.events.close(id);
    });
    const parts = { item, name, close };
    this.parts.set(id, parts);
    return parts;
  }

  private key(event: KeyboardEvent, id: string): void {
    const at = this.layout.tabs.findIndex((tab) => tab.id === id);
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? 0;
    const moves = event.ctrlKey && event.shiftKey;
    if (step && moves) this.events.move(id, at + step);
    else if (step) this.choose(at + step);
    else if (event.key === "Home") this.choose(0);
    else if (event.key === "End") this.choose(this.layout.tabs.length - 1);
    else if (event.key === "Delete") this.events.close(id);
    else if (event.key === "F2") this.rename(id);
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
      const box = this.parts.get(tab.id)?.item.getBoundingClientRect();
      return box !== undefined && event.clientX < box.left + box.width / 2;
    });
    this.events.move(id, before < 0 ? others.length : before);
  }
}
