/** The terminal page: joins connection, output stream and screen, and says in words how things are. */

import { Connection } from "./connection";
import * as protocol from "./protocol";
import { Screen } from "./screen";
import { OutputStream } from "./stream";
import { fetchTimeline, WaitingView } from "./waiting";

type State = "connecting" | "waiting" | "live" | "reconnecting" | "restarting" | "ended";

const WORDS: Record<State, string> = {
  connecting: "Connecting",
  waiting: "Starting",
  live: "Live",
  reconnecting: "Reconnecting",
  restarting: "Machine restarting",
  ended: "Ended",
};

function byId(id: string): HTMLElement {
  const found = document.getElementById(id);
  if (!found) throw new Error(`#${id} is missing`);
  return found;
}

/** xterm.js makes style elements; the policy admits those that carry this answer's nonce. */
function giveStylesTheNonce(): void {
  const nonce = document.documentElement.dataset["nonce"] ?? "";
  const create = document.createElement.bind(document);
  document.createElement = ((tag: string, options?: ElementCreationOptions) => {
    const made = create(tag, options);
    if (tag.toLowerCase() === "style") made.nonce = nonce;
    return made;
  }) as typeof document.createElement;
}

giveStylesTheNonce();
const session = byId("session").textContent ?? "";
const screen = new Screen(byId("screen"));
const terminal = screen.terminal;
const waiting = new WaitingView(byId("waiting"), byId("stages"));
const notice = byId("notice");
const noticeAction = byId("notice-action");

let ended: string | null = null;
let guest: protocol.GuestState = "waiting";
let connected = false;
let everLive = false;

const url = new URL("ws", location.href);
url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
const connection = new Connection(url.href, {
  opened() {
    const { cols, rows } = screen.wanted();
    connection.send(protocol.hello({ shell: "main", cols, rows, ...stream.position() }));
  },
  frame,
  latency(milliseconds) {
    byId("latency").textContent = milliseconds < 1 ? "<1 ms" : `${Math.round(milliseconds)} ms`;
  },
  dropped() {
    connected = false;
    stream.disconnected();
    byId("latency").textContent = "";
    show();
    void fetchTimeline(); // goes to the login page when that is why
  },
  loggedOut: () => location.reload(),
  outdated: () => location.reload(),
});
const stream = new OutputStream(terminal, (parsed, received) => connection.send(protocol.ack(parsed, received)));

function frame(received: protocol.ServerFrame): void {
  if (!stream.take(received)) {
    connection.reopen();
    return;
  }
  if (received.kind === "welcome") {
    connected = true;
    ended = null;
  } else if (received.kind === "exit") {
    ended = received.signal ? `The shell was ended by ${received.signal}.` : `The shell has ended with status ${received.status ?? "?"}.`;
  } else if (received.kind === "state") {
    guest = received.guest;
    if (guest === "live" && !everLive) {
      everLive = true;
      terminal.focus();
    }
    screen.follow(received.lead, received.cols, received.rows);
    const others = received.clients - 1;
    byId("people").hidden = others < 1;
    byId("people").textContent = `+${others} open`;
  } else if (received.kind !== "replay-begin") {
    return;
  }
  show();
}

function state(): State {
  if (!connected) return everLive || stream.epoch ? "reconnecting" : "connecting";
  if (ended !== null) return "ended";
  if (guest === "live") return "live";
  return guest === "lost" ? "restarting" : "waiting";
}

function show(): void {
  const now = state();
  document.body.dataset["state"] = now;
  byId("state").textContent = WORDS[now];
  if (now === "waiting") waiting.show();
  else if (now !== "reconnecting") waiting.hide();
  if (now === "ended") tell(`${ended ?? ""} Press Enter for a new one.`, "New shell");
  else if (now === "restarting") tell("The machine does not answer: it restarts, or has been stopped. A new shell opens as soon as it is back.");
  else if (now === "reconnecting") tell("Connection lost. Your shell runs on; reconnecting…");
  else notice.hidden = true;
}

function tell(text: string, action = ""): void {
  byId("notice-text").textContent = text;
  noticeAction.textContent = action;
  noticeAction.hidden = !action;
  notice.hidden = false;
}

function startNewShell(): void {
  ended = null;
  connection.send(protocol.newShell());
  show();
  terminal.focus();
}

noticeAction.addEventListener("click", startNewShell);
terminal.onData((data) => {
  if (stream.replaying) return;
  if (ended !== null) {
    if (data === "\r") startNewShell();
    return;
  }
  connection.send(...protocol.input(data));
});
terminal.onBinary((data) => {
  if (!stream.replaying && ended === null) connection.send(...protocol.binaryInput(data));
});
terminal.onResize(({ cols, rows }) => {
  if (screen.lead) connection.send(protocol.resize(cols, rows));
});
terminal.onTitleChange((title) => {
  byId("title").textContent = title.slice(0, 200);
  document.title = title ? `${title.slice(0, 100)} · ${session}` : `${session} · dozlab`;
});
window.addEventListener("resize", () => {
  if (!screen.lead) {
    const { cols, rows } = screen.wanted();
    connection.send(protocol.resize(cols, rows)); // becomes the shell's size when this page leads
  }
});

connection.open();
terminal.focus();

// For browser tests and for support: the emulator's visible text, and a dropped connection.
Object.assign(window, {
  dozlabScreenText: () => {
    const buffer = terminal.buffer.active;
    return Array.from({ length: terminal.rows }, (_, row) => buffer.getLine(buffer.viewportY + row)?.translateToString(true) ?? "").join("\n");
  },
  dozlabDrop: () => connection.reopen(),
});
