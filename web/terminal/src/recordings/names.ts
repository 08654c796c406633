/** What a recording is called: its tab, and when it began. Pure. */

import { FIRST_SHELL, label, parse, tabOf } from "../frame/layout";

/**
 * Name of the tab a shell is in; recordings stay when their tab has gone.
 * @param stored the layout as this browser remembers it
 */
export function tabName(shell: string, stored: string | null): string {
  const layout = parse(stored);
  const tab = layout && tabOf(layout, shell);
  if (tab) return label(tab, "");
  return shell === FIRST_SHELL ? "Terminal" : "Closed terminal";
}

/** The time of day where that was today, else the day too. */
export function moment(seconds: number, now: Date): string {
  const start = new Date(seconds * 1000);
  const time = start.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  return start.toDateString() === now.toDateString() ? time : `${start.toLocaleDateString()} ${time}`;
}
