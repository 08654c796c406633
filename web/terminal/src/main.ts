/** The terminal page: joins connection, output stream and screen, and says in words how things are. */

import { Connection } from "./connection";
import * as protocol from "./protocol";
import { Screen } from "./screen";
import { OutputStream } from "./stream";
import { fetchTimeline, WaitingView } from "./waiting";
import { words } from "./words";

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
let machine: protocol.Machine | null = null;
let liveBoots: number | null = null;
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
    ({ guest, machine } = received);
    if (guest === "live" && machine) liveBoots = machine.boots;
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

function show(): void {
  const now = words({ connected, seen: everLive || stream.epoch !== "", guest, machine, liveBoots, ended, session });
  document.body.dataset["state"] = now.state;
  byId("state").textContent = now.pill;
  if (connected && guest === "waiting") waiting.show();
  else if (now.state !== "reconnecting") waiting.hide();
  byId("notice-text").textContent = now.notice;
  noticeAction.textContent = now.action;
  noticeAction.hidden = !now.action;
  notice.hidden = !now.notice;
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
