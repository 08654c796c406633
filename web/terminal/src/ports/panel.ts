/** The panel of the machine's ports: what listens there, with links that go through the proxy. */

import "./ports.css";
import { exchange, icon, make } from "../dom";
import type { Context, Panel } from "../panels";
import { describe, type Port } from "./describe";

const PLUG = "M9 3v5M15 3v5M6 8h12v3a6 6 0 0 1-12 0zM12 17v4";
const OUT = "M14 4h6v6M20 4l-9 9M18 14v5a1 1 0 0 1-1 1H5a1 1 0 0 1-1-1V7a1 1 0 0 1 1-1h5";
const AGAIN = 3000; // milliseconds from an answer to the next question

class View {
  private readonly list = make("ul", { class: "ports" });
  private readonly note = make("p", { class: "ports-note", role: "status" });
  private timer: ReturnType<typeof setTimeout> | undefined;
  private shown = "";
  private ports: readonly Port[] = [];
  private closed = false;

  constructor(
    body: HTMLElement,
    private readonly context: Context,
  ) {
    body.append(make("p", { class: "ports-hint" }, "Start a server in the shell, and it appears here. Links open it in a tab of its own; only you can use them."), this.note, this.list);
    void this.look();
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.timer);
  }

  private async look(): Promise<void> {
    if (!document.hidden) {
      try {
        const reply = await this.context.api("ports");
        const told = (await reply.json()) as { ports?: Port[]; note?: string; error?: string };
        if (this.closed) return;
        this.draw(told.ports ?? [], told.error ?? told.note ?? "");
      } catch {
        if (!this.closed) this.draw(this.ports, "the server does not answer");
      }
    }
    if (!this.closed) this.timer = setTimeout(() => void this.look(), AGAIN);
  }

  private draw(ports: readonly Port[], note: string): void {
    const now = JSON.stringify([ports, note]);
    if (now === this.shown) return; // nothing moves under the pointer or the screen reader
    this.shown = now;
    this.ports = ports;
    this.note.textContent = note ? `${note[0]?.toUpperCase() ?? ""}${note.slice(1)}.` : ports.length ? "" : "Nothing listens.";
    if (exchange(this.list, ports.map((port) => this.row(port)))) this.list.querySelector("a")?.focus();
    if (ports.some(({ link }) => link)) this.list.removeAttribute("tabindex");
    else this.list.tabIndex = 0; // a long list is to be scrolled by keys, too
  }

  private row(port: Port): HTMLElement {
    const text = [make("span", { class: "port-number" }, String(port.port)), make("span", { class: "port-about" }, describe(port))];
    if (!port.link) return make("li", {}, make("span", { class: "port" }, ...text));
    const href = new URL(`ports/${port.port}/open`, this.context.base).href;
    const label = `Open port ${port.port} in a new tab`;
    return make("li", { "data-key": String(port.port) }, make("a", { class: "port", href, target: "_blank", rel: "noopener noreferrer", "aria-label": label }, ...text, icon(OUT)));
  }
}

export const panel: Panel = {
  id: "ports",
  label: "Ports",
  icon: PLUG,
  roles: ["owner", "editor"],
  open(body, context) {
    const view = new View(body, context);
    return () => view.close();
  },
};
