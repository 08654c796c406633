/** The WebSocket: opened, pinged, opened again with back-off. Knows frames as bytes and events, nothing of the screen. */

import { Backoff } from "./backoff";
import { Close, decode, ping, SUBPROTOCOL, type ServerFrame } from "./protocol";

const PING_EVERY = 5000;
const SILENT_AFTER = 15000;

export interface Events {
  /** A socket is open: send HELLO. */
  opened(): void;
  frame(frame: ServerFrame): void;
  latency(milliseconds: number): void;
  /** The socket is gone; the next attempt comes by itself. `code` is 1006 when it never opened. */
  dropped(code: number, reason: string): void;
  loggedOut(reason: string): void;
  outdated(): void;
  /** Somebody has closed the shell: there is nothing to come back to. */
  closed(): void;
}

export class Connection {
  private socket: WebSocket | null = null;
  private retry: number | undefined;
  private readonly backoff = new Backoff();
  private readonly done = new AbortController();
  private readonly beats: number;
  private heard = 0;

  constructor(
    private readonly url: string,
    private readonly events: Events,
  ) {
    this.beats = window.setInterval(() => this.beat(), PING_EVERY);
    const soon = (): void => {
      if (this.retry !== undefined && document.visibilityState === "visible") this.open();
    };
    window.addEventListener("online", soon, { signal: this.done.signal });
    document.addEventListener("visibilitychange", soon, { signal: this.done.signal });
  }

  open(): void {
    clearTimeout(this.retry);
    this.retry = undefined;
    this.socket?.close();
    const socket = new WebSocket(this.url, SUBPROTOCOL);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onopen = () => {
      if (socket !== this.socket) return;
      this.heard = performance.now();
      this.events.opened();
      this.beat();
    };
    socket.onmessage = (message: MessageEvent<ArrayBuffer>) => {
      if (socket !== this.socket) return;
      this.heard = performance.now();
      const frame = decode(message.data);
      if (frame.kind === "welcome") this.backoff.reset();
      if (frame.kind === "pong") this.events.latency(performance.now() - frame.token / 1000);
      else this.events.frame(frame);
    };
    socket.onclose = (event) => {
      if (socket === this.socket) this.lost(event.code, event.reason);
    };
  }

  /** Drops the socket and comes back, resuming. */
  reopen(): void {
    const socket = this.socket;
    this.socket = null;
    socket?.close();
    this.lost(1006, "");
  }

  /** Ends for good. */
  dispose(): void {
    const socket = this.socket;
    this.socket = null;
    this.done.abort();
    clearTimeout(this.retry);
    clearInterval(this.beats);
    socket?.close();
  }

  send(...frames: Uint8Array<ArrayBuffer>[]): void {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    for (const frame of frames) this.socket.send(frame);
  }

  private lost(code: number, reason: string): void {
    this.socket = null;
    if (code === Close.loggedOut) return this.events.loggedOut(reason);
    if (code === Close.version) return this.events.outdated();
    if (code === Close.noShell) return this.events.closed();
    clearTimeout(this.retry);
    this.retry = window.setTimeout(() => this.open(), this.backoff.next());
    this.events.dropped(code, reason);
  }

  private beat(): void {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    if (performance.now() - this.heard > SILENT_AFTER) this.reopen();
    else this.send(ping(Math.round(performance.now() * 1000)));
  }
}
