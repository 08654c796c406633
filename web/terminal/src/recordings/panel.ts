/** The recordings as a side panel: what there is, played, downloaded, removed. */

import "./recordings.css";
import { exchange, focusIsIn, icon, iconButton, make } from "../dom";
import { bytes } from "../files/names";
import { ask } from "../frame/dialogs";
import type { Context, Panel } from "../panels";
import { moment, tabName } from "./names";
import { clock } from "./playback";

const ICON = "M21 12a9 9 0 1 1-18 0a9 9 0 0 1 18 0M10 8.5l5.5 3.5l-5.5 3.5z";
const PLAY = "M8 5.5l10 6.5l-10 6.5z";
const REMOVE = "M5 7h14M10 7V4.5h4V7M7 7l1 13h8l1-13";
const AGAIN = "M20 11a8 8 0 1 0-2 6M20 5v6h-6";

interface Recording {
  id: string;
  shell: string;
  /** Seconds of the Unix epoch. */
  start: number;
  seconds: number;
  bytes: number;
  live: boolean;
}

interface Listing {
  recording: boolean;
  input: boolean;
  limit: number;
  used: number;
  recordings: Recording[];
}

export const panel: Panel = { id: "recordings", label: "Recordings", icon: ICON, roles: ["owner", "editor"], open };

/** The layout as this page, or else this browser, remembers it; null where neither does. */
function stored(session: string): string | null {
  try {
    const key = `dozlab.layout.${session}`;
    return sessionStorage.getItem(key) ?? localStorage.getItem(key);
  } catch {
    return null;
  }
}

function open(body: HTMLElement, context: Context): () => void {
  const head = make("p", { class: "recordings-head" });
  const list = make("ul", { class: "recordings" });
  const again = iconButton("Look again", AGAIN, () => void refresh());
  body.append(make("div", { class: "recordings-top" }, head, again), list);
  let closed = false;
  let turn = 0;
  let opening = false;

  const nameOf = (recording: Recording): string => `${tabName(recording.shell, stored(context.session))}, ${moment(recording.start, new Date())}`;

  async function refresh(): Promise<void> {
    turn += 1;
    const mine = turn;
    const found = await listed();
    if (!closed && mine === turn) show(found); // an older answer knows less
  }

  async function listed(): Promise<Listing | string> {
    try {
      const reply = await context.api("recordings");
      const listing = (await reply.json()) as Partial<Listing> & { error?: string };
      return reply.ok ? (listing as Listing) : (listing.error ?? `The server answered with status ${reply.status}.`);
    } catch {
      return "The server is away. Look again in a moment.";
    }
  }

  function show(found: Listing | string): void {
    if (typeof found === "string") {
      head.textContent = found;
      return;
    }
    const what = found.input ? "What the terminals print and what is typed, passwords included, is recorded." : "What the terminals print is recorded; what is typed is not.";
    head.textContent = found.recording ? `${what} ${bytes(found.used)} of ${bytes(found.limit)}; the oldest make room.` : "Nothing is being recorded now.";
    const none = make("li", { class: "recordings-none" }, "No recordings.");
    if (exchange(list, found.recordings.length ? found.recordings.map(row) : [none])) again.focus();
  }

  function row(recording: Recording): HTMLElement {
    const name = nameOf(recording);
    const about = `${clock(recording.seconds)} · ${bytes(recording.bytes)}${recording.live ? " · goes on" : ""}`;
    const play = make("button", { type: "button", class: "recording-open", click: () => void playIt(recording) },
      icon(PLAY), make("span", { class: "sr" }, "Play "), make("span", { class: "recording-name" }, name), make("span", { class: "recording-about" }, about));
    const download = (version: string): HTMLElement =>
      make("a", { class: "recording-link", href: new URL(`recordings/${recording.id}?format=${version}`, context.base).href, download: true, "aria-label": `Download ${name} as asciicast ${version}` }, version);
    const item = make("li", { class: "recording-row", "data-key": recording.id }, play, make("span", { class: "recording-links" }, download("v3"), download("v2")));
    if (context.role() === "owner") item.append(iconButton(`Remove ${name}`, REMOVE, () => void remove(recording)));
    return item;
  }

  async function playIt(recording: Recording): Promise<void> {
    if (opening) return; // a double click opens one
    opening = true;
    try {
      const { Player } = await import("./player");
      if (!closed) new Player(context, recording.id, nameOf(recording));
    } finally {
      opening = false;
    }
  }

  async function remove(recording: Recording): Promise<void> {
    const question = `Remove the recording of ${nameOf(recording)}?`;
    if ((await ask(question, [], [{ value: "remove", label: "Remove", kind: "bad" }, { value: "", label: "Keep", kind: "quiet" }])) !== "remove") return;
    try {
      const reply = await context.api(`recordings/${recording.id}`, { method: "DELETE" });
      if (!reply.ok && reply.status !== 404) context.say("It could not be removed.");
    } catch {
      context.say("The server is away: nothing was removed.");
    }
    await refresh();
    if (focusIsIn(body)) again.focus();
  }

  let told: boolean | null = null;
  const undo = context.onState((state) => {
    if (told !== null && told !== state.recording) void refresh();
    told = state.recording;
  });
  void refresh();
  return () => {
    closed = true;
    undo();
  };
}
