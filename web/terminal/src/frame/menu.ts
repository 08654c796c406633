/** The menu of the page's actions: a button and a list that arrow keys go through. */

import { make } from "../dom";
import { shownKeys, type Action } from "./chords";

export interface MenuItem {
  label: string;
  /** Its key is shown beside it. */
  action?: Action;
  run(): void;
  /** Whether it is there at this moment; always, where left out. */
  when?(): boolean;
}

export class Menu {
  constructor(
    private readonly button: HTMLElement,
    private readonly list: HTMLElement,
    private readonly items: readonly MenuItem[],
    private readonly left: () => void,
  ) {
    button.addEventListener("click", () => (this.list.hidden ? this.open() : this.close()));
    list.addEventListener("keydown", (event) => this.key(event));
    document.addEventListener("pointerdown", (event) => {
      const inside = event.target instanceof Node && (list.contains(event.target) || button.contains(event.target));
      if (!inside) this.hide();
    });
    list.addEventListener("focusout", (event) => {
      if (event.relatedTarget instanceof Node && !list.contains(event.relatedTarget)) this.hide();
    });
  }

  open(): void {
    this.list.replaceChildren(...this.items.filter((item) => item.when?.() ?? true).map((item) => this.draw(item)));
    this.list.hidden = false;
    this.button.setAttribute("aria-expanded", "true");
    this.focus(0);
  }

  close(): void {
    this.hide();
    this.left();
  }

  private hide(): void {
    this.list.hidden = true;
    this.button.setAttribute("aria-expanded", "false");
  }

  private draw({ label, action, run }: MenuItem): HTMLElement {
    const click = (): void => {
      this.close();
      run();
    };
    const keys = action ? shownKeys(action) : "";
    return make("button", { type: "button", role: "menuitem", tabindex: "-1", "aria-keyshortcuts": keys.replace("Ctrl", "Control"), click },
      make("span", {}, label), make("kbd", { "aria-hidden": "true" }, keys));
  }

  private focus(at: number): void {
    const items = [...this.list.querySelectorAll<HTMLElement>("[role=menuitem]")];
    items[(at + items.length) % items.length]?.focus();
  }

  private key(event: KeyboardEvent): void {
    const items = [...this.list.querySelectorAll<HTMLElement>("[role=menuitem]")];
    const at = items.indexOf(document.activeElement as HTMLElement);
    if (event.key === "ArrowDown") this.focus(at + 1);
    else if (event.key === "ArrowUp") this.focus(at - 1);
    else if (event.key === "Home") this.focus(0);
    else if (event.key === "End") this.focus(-1);
    else if (event.key === "Escape") this.close();
    else if (event.key === "Tab") {
      this.hide();
      this.button.focus(); // the next Tab goes on from there
    } else return;
    event.preventDefault();
  }
}
