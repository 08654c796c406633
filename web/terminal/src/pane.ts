/** One terminal: a connection, an output stream and a screen, joined. Says by events what happens to it. */

import { Connection } from "./connection";
import { iconButton, make, setText } from "./dom";
import * as protocol from "./protocol";
import { Screen, type ScreenHooks } from "./screen";
import { OutputStream } from "./stream";
import { words, type Words } from "./words";

const CLOSE = "M7 7l10 10M17 7L7 17";
/** Characters of what is typed into a new terminal before it is there. */
const MOST_EARLY = 4096;

export interface PaneEvents extends ScreenHooks {
  /** Something that the page shows has changed: words, title, latency, STATE. */
  changed(pane: Pane): void;
  focused(pane: Pane): void;
  /** Its close button was pressed. */
  closes(pane: Pane): void;
  /** The server has closed its shell. */
  closed(pane: Pane): void;
  /** What was typed, before it is sent: held keys of the key row are applied. */
  typing(data: string): string;
  /** Who only watches has typed. */
  watches(): void;
  loggedOut(reason: string): void;
  outdated(): void;
  dropped(): void;
}

export class Pane {
  readonly element: HTMLElement;
  readonly screen: Screen;
  /** The newest STATE; null before the first. */
  state: protocol.State | null = null;
  title = "";
  /** Milliseconds of the last round trip; null while there is none. */
  latency: number | null = null;
  words: Words;
  private readonly connection: Connection;
  private readonly stream: OutputStream;
  private readonly notice = make("span", { class: "notice-text" });
  private readonly action = make("button", { type: "button", hidden: true, click: () => this.startNewShell() });
  private readonly bar = make("div", { class: "notice", role: "alert", hidden: true }, this.notice, this.action);
  private readonly headTitle = make("span", { class: "pane-title" }, "Terminal");
  private ended: string | null = null;
  private liveBoots: number | null = null;
  private connected = false;
  private everConnected = false;
  private everLive = false;
  /** Why the server has no room for it; "" when it has. */
  private refused = "";
  /** Typed into a new terminal before it was there; null where that is not kept: it might be meant for another program. */
  private early: string | null = null;

  /** @param parent where its element goes: the emulator measures itself there */
  constructor(
    private readonly session: string,
    readonly shell: string,
    address: URL,
    parent: HTMLElement,
    private readonly events: PaneEvents,
  ) {
    const screenBox = make("div", { class: "screen" });
    const close = iconButton("Close this terminal", CLOSE, () => events.closes(this));
    const head = make("div", { class: "pane-head" }, this.headTitle, close);
    this.element = make("div", { class: "pane", role: "group", "aria-label": "Terminal" }, head, screenBox, this.bar);
    this.element.dataset["shell"] = shell;
    parent.append(this.element);
    const hooks: ScreenHooks = {
      askPaste: (text, go) => events.askPaste(text, go),
      copySelected: (text) => events.copySelected(text),
      programCopies: (wish) => {
        if (!this.stream.replaying) events.programCopies(wish); // what was copied once is not copied again
      },
    };
    this.screen = new Screen(screenBox, hooks);
    const terminal = this.screen.terminal;
    const acks = (parsed: number, received: number): void => this.connection.send(protocol.ack(parsed, received));
    this.stream = new OutputStream(terminal, acks, () => {
      this.connected = this.everConnected = true;
      this.show();
      this.typeEarly();
    });
    this.connection = new Connection(address.href, {
      opened: () => {
        const { cols, rows } = this.screen.wanted();
        this.connection.send(protocol.hello({ shell, cols, rows, ...this.stream.position() }));
      },
      frame: (frame) => this.take(frame),
      latency: (milliseconds) => {
        this.latency = milliseconds;
        events.changed(this);
      },
      dropped: (code, reason) => {
        this.connected = false;
        this.early = null; // nobody knows when it will be there
        this.latency = null;
        this.refused = code === protocol.Close.tooMany && !this.everLive ? reason : "";
        this.stream.disconnected();
        this.show();
        events.dropped();
      },
      loggedOut: (reason) => events.loggedOut(reason),
      outdated: () => events.outdated(),
      closed: () => events.closed(this),
    });
    this.words = this.sayHow();
    terminal.onData((data) => this.typed(data));
    terminal.onBinary((data) => {
      if (!this.stream.replaying && this.ended === null) this.connection.send(...protocol.binaryInput(data));
    });
    terminal.onResize(({ cols, rows }) => {
      if (this.screen.sizes) this.connection.send(protocol.resize(cols, rows));
    });
    terminal.onTitleChange((title) => {
      this.title = title.slice(0, 200);
      this.headTitle.textContent = this.title || "Terminal";
      events.changed(this);
    });
    this.element.addEventListener("focusin", () => events.focused(this));
  }

  open(): void {
    this.connection.open();
  }

  /** Its shell is new: what is typed before it is there is for it. */
  keepEarlyKeys(): void {
    if (!this.everConnected) this.early ??= "";
  }

  /** How screen readers call it. */
  call(name: string): void {
    if (this.element.getAttribute("aria-label") !== name) this.element.setAttribute("aria-label", name);
  }

  focus(): void {
    this.screen.terminal.focus();
  }

  /** Sends frames of the protocol as they are. */
  send(...frames: Uint8Array<ArrayBuffer>[]): void {
    this.connection.send(...frames);
  }

  /** Drops the socket and comes back, resuming. */
  reopen(): void {
    this.connection.reopen();
  }

  dispose(): void {
    this.connection.dispose();
    this.screen.dispose();
    this.element.remove();
  }

  /** The window has another size: the shell follows when it has this page's size, now or later. */
  resized(): void {
    if (this.screen.sizes) return;
    const { cols, rows } = this.screen.wanted();
    this.connection.send(protocol.resize(cols, rows));
  }

  /** A shell runs, and something may run in it. */
  get busy(): boolean {
    return this.everLive && this.ended === null;
  }

  /** Types for the user, as the key row does. */
  type(data: string): void {
    if (this.early !== null) {
      if (this.early.length + data.length <= MOST_EARLY) this.early += data;
      return;
    }
    if (this.stream.replaying) return;
    if (this.state?.role === "viewer" && !data.startsWith("\x1b")) this.events.watches(); // else the mouse or the focus tells of itself
    if (this.ended !== null) {
      if (data === "\r") this.startNewShell();
      return;
    }
    this.connection.send(...protocol.input(data));
  }

  private typed(data: string): void {
    if (this.early !== null || !this.stream.replaying) this.type(this.events.typing(data));
  }

  private typeEarly(): void {
    const early = this.early;
    this.early = null;
    if (early) this.type(early);
  }

  private take(frame: protocol.ServerFrame): void {
    if (!this.stream.take(frame)) {
      this.connection.reopen();
      return;
    }
    if (frame.kind === "welcome") {
      this.ended = null;
      this.refused = "";
    } else if (frame.kind === "exit") {
      this.ended = frame.signal ? `The shell was ended by ${frame.signal}.` : `The shell has ended with status ${frame.status ?? "?"}.`;
    } else if (frame.kind === "state") {
      this.state = frame;
      if (frame.guest === "live" && frame.machine) this.liveBoots = frame.machine.boots;
      if (frame.guest === "live") this.everLive = true;
      this.screen.follow(frame.lead, frame.sizes, frame.cols, frame.rows);
    } else if (frame.kind !== "replay-begin") {
      return;
    }
    this.show();
  }

  private sayHow(): Words {
    const { connected, everConnected, liveBoots, ended, session } = this;
    const said = words({ connected, seen: everConnected, guest: this.state?.guest ?? "waiting", machine: this.state?.machine ?? null, liveBoots, ended, session });
    return this.refused ? { ...said, notice: `No room for this terminal: ${this.refused}. Close another one; this one then opens by itself.` } : said;
  }

  private show(): void {
    this.words = this.sayHow();
    this.element.dataset["state"] = this.words.state;
    setText(this.notice, this.words.notice);
    setText(this.action, this.words.action);
    this.action.hidden = !this.words.action;
    this.bar.hidden = !this.words.notice;
    this.events.changed(this);
  }

  private startNewShell(): void {
    this.ended = null;
    this.connection.send(protocol.newShell());
    this.show();
    this.focus();
  }
}
