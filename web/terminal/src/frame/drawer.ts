/** The side panel: one at a time, opened by its button in the header, closed by button or Escape. */

import { byId, iconButton } from "../dom";
import type { Context, Panel } from "../panels";

const CLOSE = "M6 6l12 12M18 6L6 18";

export class Drawer {
  private readonly root = byId("drawer");
  private readonly body = byId("drawer-body");
  private readonly buttons = new Map<string, HTMLButtonElement>();
  private opened: Panel | null = null;
  private undo: (() => void) | null = null;

  /** @param left called when it has closed: gives the focus back to the terminal */
  constructor(
    private readonly panels: readonly Panel[],
    private readonly context: Context,
    private readonly left: () => void,
  ) {
    for (const panel of panels) {
      const button = iconButton(panel.label, panel.icon, () => this.toggle(panel.id));
      button.dataset["panel"] = panel.id;
      button.setAttribute("aria-expanded", "false");
      button.setAttribute("aria-controls", "drawer");
      this.buttons.set(panel.id, button);
      byId("panel-buttons").append(button);
    }
    const close = iconButton("Close panel", CLOSE, () => this.close());
    byId("drawer-head").append(close);
    this.root.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.defaultPrevented) return;
      event.preventDefault();
      this.close();
    });
    context.onState(() => this.admit());
    this.admit();
  }

  toggle(id: string): void {
    if (this.opened?.id === id) this.close();
    else this.open(id);
  }

  open(id: string): void {
    const panel = this.panels.find((each) => each.id === id);
    if (!panel || !panel.roles.includes(this.context.role())) return;
    this.clear();
    this.opened = panel;
    byId("drawer-title").textContent = panel.label;
    this.root.hidden = false;
    this.root.dataset["panel"] = panel.id;
    this.buttons.get(id)?.setAttribute("aria-expanded", "true");
    this.undo = panel.open(this.body, this.context);
    byId("drawer-title").focus();
  }

  close(): void {
    if (!this.opened) return;
    this.clear();
    this.root.hidden = true;
    this.left();
  }

  private clear(): void {
    this.undo?.();
    this.undo = null;
    if (this.opened) this.buttons.get(this.opened.id)?.setAttribute("aria-expanded", "false");
    this.opened = null;
    this.body.replaceChildren();
  }

  /** Shows the buttons that this browser's role may use. */
  private admit(): void {
    const role = this.context.role();
    for (const panel of this.panels) {
      const button = this.buttons.get(panel.id);
      if (button) button.hidden = !panel.roles.includes(role);
    }
    if (this.opened && !this.opened.roles.includes(role)) this.close();
  }
}
