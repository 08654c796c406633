/** The view shown until the guest answers: asks for the timeline once a second and draws it. */

import { setText } from "./dom";
import { toLogin, UNKNOWN } from "./farewell";
import { formatSeconds, outlook, steps, type Step, type TimelineReply } from "./timeline";

const EVERY = 1000;

/** Fetches the timeline. Goes to the login page when the cookie is no longer good; null while the server is away. */
export async function fetchTimeline(): Promise<TimelineReply | null> {
  try {
    const reply = await fetch("timeline", { headers: { Accept: "application/json" }, cache: "no-store" });
    if (reply.status === 401) {
      toLogin(UNKNOWN);
      return null;
    }
    return reply.ok ? ((await reply.json()) as TimelineReply) : null;
  } catch {
    return null; // the network is away; the connection's own state says so
  }
}

export class WaitingView {
  private timer: number | undefined;
  private drawn: string[] = [];

  /** @param told where it is said how it goes, for those who do not see the list */
  constructor(
    private readonly root: HTMLElement,
    private readonly list: HTMLElement,
    private readonly told: HTMLElement,
  ) {}

  show(): void {
    if (!this.root.hidden) return;
    this.root.hidden = false;
    void this.refresh();
  }

  hide(): void {
    this.root.hidden = true;
    clearTimeout(this.timer);
  }

  private async refresh(): Promise<void> {
    const reply = await fetchTimeline();
    if (this.root.hidden) return;
    if (reply) this.draw(steps(reply));
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => void this.refresh(), EVERY);
  }

  /** Only what has changed: who reads the list is not thrown out of it every second. */
  private draw(all: Step[]): void {
    const drawn = all.map((step) => JSON.stringify({ ...step, seconds: null }));
    all.forEach((step, at) => {
      const row = this.list.children[at];
      if (!row || drawn[at] !== this.drawn[at]) {
        if (row) row.replaceWith(draw(step));
        else this.list.append(draw(step));
      } else if (row.lastElementChild) {
        setText(row.lastElementChild, formatSeconds(step.seconds));
      }
    });
    this.drawn = drawn;
    setText(this.told, outlook(all));
  }
}

function draw(step: Step): HTMLElement {
  const item = document.createElement("li");
  item.dataset["step"] = step.step;
  const icon = element("span", "icon");
  icon.setAttribute("role", "img");
  icon.setAttribute("aria-label", step.step);
  const what = element("span", "what", step.label);
  if (step.detail && step.step !== "done") what.append(element("small", "", step.detail));
  item.append(icon, what, element("span", "took", formatSeconds(step.seconds)));
  return item;
}

function element(tag: string, className: string, text = ""): HTMLElement {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}
