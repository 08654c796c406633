/** The mark in the header that tells whether the active terminal is recorded. */

import { setText } from "../dom";

const seen = new WeakSet<HTMLElement>();

/** Shows it while recording; where it stopped while the page was open, says so until it goes on. */
export function showRecording(element: HTMLElement, on: boolean): void {
  if (on) seen.add(element);
  element.hidden = !seen.has(element);
  element.dataset["on"] = String(on);
  element.title = on ? "What this terminal prints is recorded" : "Recording has stopped: there is no room for it";
  const words = element.querySelector("span");
  if (words) setText(words, on ? "Recorded" : "Not recorded");
}
