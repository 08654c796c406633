/** Puts the panes of the shown tab in their places, with a line between each two that can be moved by mouse, touch and keys. */

import { make } from "../dom";
import { boxes, dividers, type Box, type Divider, type Tab } from "./layout";

const STEP = 0.05;

const percent = (share: number): string => `${100 * share}%`;

function place(element: HTMLElement, box: Box): void {
  element.style.left = percent(box.x);
  element.style.top = percent(box.y);
  element.style.width = percent(box.width);
  element.style.height = percent(box.height);
}

export class Splits {
  constructor(
    private readonly root: HTMLElement,
    private readonly moved: (tab: string, path: string, ratio: number) => void,
  ) {}

  /** @param elementOf the element of a shell's pane; those of other tabs are hidden by the caller */
  show(tab: Tab, elementOf: (shell: string) => HTMLElement | undefined): void {
    const places = boxes(tab.root);
    this.root.classList.toggle("split", places.size > 1);
    for (const [shell, box] of places) {
      const element = elementOf(shell);
      if (!element) continue;
      place(element, box);
      element.classList.toggle("active", shell === tab.active);
    }
    const wanted = dividers(tab.root);
    const lines = new Map([...this.root.querySelectorAll<HTMLElement>(".divider")].map((line) => [`${line.dataset["tab"]} ${line.dataset["path"]}`, line]));
    for (const divider of wanted) {
      const key = `${tab.id} ${divider.path}`;
      const line = lines.get(key) ?? this.line(tab.id, divider);
      lines.delete(key);
      this.update(line, divider);
    }
    for (const line of lines.values()) line.remove();
  }

  private update(line: HTMLElement, divider: Divider): void {
    place(line, divider);
    line.dataset["direction"] = divider.direction;
    line.dataset["ratio"] = String(divider.ratio);
    line.dataset["of"] = JSON.stringify(divider.of);
    line.setAttribute("aria-orientation", divider.direction === "row" ? "vertical" : "horizontal");
    line.setAttribute("aria-valuenow", String(Math.round(100 * divider.ratio)));
  }

  private line(tab: string, { path }: Divider): HTMLElement {
    const line = make("div", { class: "divider", role: "separator", tabindex: "0", "aria-label": "Size of the panes", "aria-valuemin": "10", "aria-valuemax": "90" });
    line.dataset["tab"] = tab;
    line.dataset["path"] = path;
    line.addEventListener("keydown", (event) => {
      const back = line.dataset["direction"] === "row" ? "ArrowLeft" : "ArrowUp";
      const forth = line.dataset["direction"] === "row" ? "ArrowRight" : "ArrowDown";
      const by = event.key === back ? -STEP : event.key === forth ? STEP : 0;
      if (!by) return;
      event.preventDefault();
      this.moved(tab, path, Number(line.dataset["ratio"]) + by);
    });
    line.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      line.setPointerCapture(event.pointerId);
      line.onpointermove = (move) => this.dragged(line, tab, path, move);
    });
    for (const end of ["pointerup", "pointercancel"]) line.addEventListener(end, () => (line.onpointermove = null));
    this.root.append(line);
    return line;
  }

  private dragged(line: HTMLElement, tab: string, path: string, event: PointerEvent): void {
    const whole = this.root.getBoundingClientRect();
    const of = JSON.parse(line.dataset["of"] ?? "{}") as Box;
    const share = line.dataset["direction"] === "row"
      ? ((event.clientX - whole.left) / whole.width - of.x) / of.width
      : ((event.clientY - whole.top) / whole.height - of.y) / of.height;
    if (Number.isFinite(share)) this.moved(tab, path, share);
  }
}
