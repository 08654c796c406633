/** What a side panel is, and what the page gives it. Types only: the panels themselves know nothing of each other. */

import type * as protocol from "./protocol";

export type Role = protocol.Role;

export interface Context {
  session: string;
  /** The page's own address; ends with "/". */
  base: URL;
  role(): Role;
  /** This browser's member id, as STATE says it; "" before. */
  me(): string;
  /** Calls with each STATE of the active pane, and with the newest one at once. Returns what undoes it. */
  onState(listener: (state: protocol.State) => void): () => void;
  activeShell(): string;
  /** What a shell is called on this page: its tab's label. */
  nameOf(shell: string): string;
  /** Asks to lead the active pane's shell. */
  takeOver(): void;
  /** Shows a short notice at the bottom for a few seconds. */
  say(text: string): void;
  /** fetch, relative to `base`; goes to the login on 401. */
  api(path: string, init?: RequestInit): Promise<Response>;
}

export interface Panel {
  id: string;
  label: string;
  /** SVG path data, drawn as a stroke of 24 x 24. */
  icon: string;
  /** Who sees its button. */
  roles: readonly Role[];
  /** Fills the panel's body; returns what to call when it closes. */
  open(body: HTMLElement, context: Context): () => void;
}
