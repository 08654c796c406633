/** Small helpers for making elements. Text always goes in as text: nothing here takes HTML. */

export function byId(id: string): HTMLElement {
  const found = document.getElementById(id);
  if (!found) throw new Error(`#${id} is missing`);
  return found;
}

/** Sets a text where it is another one: a live region whose text is set again is read out again. */
export function setText(node: Element, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}

type Attributes = Record<string, string | boolean | ((event: Event) => void)>;

/** Makes an element: `class` and other attributes by name, `true` for a bare one, functions as listeners ("click"). */
export function make<K extends keyof HTMLElementTagNameMap>(tag: K, attributes: Attributes = {}, ...children: (Node | string)[]): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** The buttons and links of a row; a row may be one itself. */
function controls(row: HTMLElement): HTMLElement[] {
  return row.matches("button, a") ? [row] : [...row.querySelectorAll<HTMLElement>("button, a")];
}

/**
 * Gives a list other rows. The focus stays on the row of the same `data-key`, at the same button.
 * Returns whether it was in the list and has nowhere to stay.
 */
export function exchange(list: HTMLElement, rows: readonly HTMLElement[]): boolean {
  const focused = document.activeElement instanceof HTMLElement && list.contains(document.activeElement) ? document.activeElement : null;
  const row = focused?.closest<HTMLElement>("[data-key]");
  const at = focused && row ? controls(row).indexOf(focused) : -1;
  list.replaceChildren(...rows);
  if (!focused) return false;
  const same = row ? rows.find((each) => each.dataset["key"] === row.dataset["key"]) : undefined;
  const found = same ? controls(same) : [];
  (found[at] ?? found[0])?.focus();
  return found.length === 0;
}

/** Whether the focus is there, or nowhere: it may be moved then, since nobody types elsewhere. */
export function focusIsIn(element: HTMLElement): boolean {
  return element.contains(document.activeElement) || document.activeElement === document.body;
}

const SVG = "http://www.w3.org/2000/svg";

/** A drawing of 24 x 24 by its stroke's path data; says nothing to a screen reader. */
export function icon(path: string): SVGSVGElement {
  const svg = document.createElementNS(SVG, "svg");
  for (const [name, value] of Object.entries({ viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" })) svg.setAttribute(name, value);
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

/** A square button with a drawing, named for screen readers and by its tooltip. */
export function iconButton(label: string, path: string, click: (event: Event) => void): HTMLButtonElement {
  return make("button", { type: "button", class: "tool", "aria-label": label, title: label, click }, icon(path));
}
