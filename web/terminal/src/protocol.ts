/** The terminal protocol, version 1: frames to bytes and back. No sockets here. See docs/reference/terminal-protocol.md. */

export const VERSION = 1;
export const SUBPROTOCOL = "dozlab.terminal.v1";
/** Bytes of one INPUT frame at most; a large paste is cut into several. */
export const MAX_INPUT = 32 * 1024;

export const Close = { goingAway: 1001, protocol: 4400, loggedOut: 4401, version: 4406, noShell: 4404, tooMany: 4429 } as const;

export type GuestState = "waiting" | "live" | "lost";

/** What the machine itself is doing, as the server says it. */
export interface Machine {
  state: string;
  /** Why it is paused: asked, idle, disk or saving. */
  paused: string;
  /** How often it was started. */
  boots: number;
  /** What the newest start began with: boot, snapshot, checkpoint or clean. */
  how: string;
  /** Name of the checkpoint. */
  name: string;
  reason: string;
}

export type Role = "owner" | "editor" | "viewer";

/** One client of a shell, and whose it is. */
export interface Person {
  id: string;
  role: Role;
  name: string;
  leads: boolean;
}

export interface State {
  kind: "state";
  guest: GuestState;
  /** This page answers the queries of programs. */
  lead: boolean;
  /** The shell has this page's size. */
  sizes: boolean;
  cols: number;
  rows: number;
  clients: number;
  machine: Machine | null;
  /** Milliseconds of a round trip between server and guest; null while unknown. */
  guest_ms: number | null;
  role: Role;
  /** This browser's member id. */
  you: string;
  people: Person[];
  /** Names of all shells of the session. */
  shells: string[];
  recording: boolean;
}

/** What a server that knows nothing of these leaves out. */
const UNSAID = { machine: null, guest_ms: null, role: "owner", you: "", people: [], shells: [], recording: false } as const;

export type ServerFrame =
  | { kind: "welcome"; version: number; session: string; shell: string; epoch: string }
  | { kind: "output"; offset: number; data: Uint8Array }
  | { kind: "replay-begin"; offset: number; reset: boolean; preamble: Uint8Array }
  | { kind: "replay-end"; offset: number }
  | { kind: "exit"; status: number | null; signal: string | null; reason: string }
  | State
  | { kind: "pong"; token: number }
  | { kind: "unknown" };

const text = new TextDecoder();
const utf8 = new TextEncoder();

/** A u64 as a number: exact up to 2^53, which is 9 petabytes of output. */
function readU64(view: DataView, at: number): number {
  return view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);
}

function writeU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 2 ** 32));
  view.setUint32(at + 4, value >>> 0);
}

/** Decodes a frame of the server; throws when it is malformed. */
export function decode(message: ArrayBuffer): ServerFrame {
  const view = new DataView(message);
  const json = (): Record<string, unknown> => JSON.parse(text.decode(new Uint8Array(message, 1))) as Record<string, unknown>;
  switch (view.getUint8(0)) {
    case 0x81:
      return { ...json(), kind: "welcome" } as ServerFrame;
    case 0x82:
      return { kind: "output", offset: readU64(view, 1), data: new Uint8Array(message, 9) };
    case 0x83:
      return { kind: "replay-begin", offset: readU64(view, 1), reset: (view.getUint8(9) & 1) === 1, preamble: new Uint8Array(message, 10) };
    case 0x84:
      return { kind: "replay-end", offset: readU64(view, 1) };
    case 0x85:
      return { ...json(), kind: "exit" } as ServerFrame;
    case 0x86:
      return state(json());
    case 0x87:
      return { kind: "pong", token: readU64(view, 1) };
    default:
      return { kind: "unknown" };
  }
}

function state(said: Record<string, unknown>): State {
  return { ...UNSAID, sizes: said["lead"], ...said, kind: "state" } as unknown as State;
}

export interface Hello {
  shell: string;
  cols: number;
  rows: number;
  /** The epoch and offset this page got to; "" for a page that has seen nothing yet. */
  epoch: string;
  offset: number;
}

export function hello(fields: Hello): Uint8Array<ArrayBuffer> {
  const body = utf8.encode(JSON.stringify({ versions: [VERSION], ...fields }));
  return frame(0x01, body);
}

/** INPUT frames for what was typed or pasted. */
export function input(data: string): Uint8Array<ArrayBuffer>[] {
  return cut(utf8.encode(data));
}

/** INPUT frames for bytes that are no text (old mouse reports): each character is one byte. */
export function binaryInput(data: string): Uint8Array<ArrayBuffer>[] {
  return cut(Uint8Array.from(data, (char) => char.charCodeAt(0) & 0xff));
}

function cut(bytes: Uint8Array): Uint8Array<ArrayBuffer>[] {
  const frames = [];
  for (let at = 0; at < bytes.length; at += MAX_INPUT) frames.push(frame(0x02, bytes.subarray(at, at + MAX_INPUT)));
  return frames;
}

export function resize(cols: number, rows: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(5);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, 0x03);
  view.setUint16(1, cols);
  view.setUint16(3, rows);
  return bytes;
}

export function ack(parsed: number, received: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(17);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, 0x04);
  writeU64(view, 1, parsed);
  writeU64(view, 9, received);
  return bytes;
}

export function ping(token: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(9);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, 0x05);
  writeU64(view, 1, token);
  return bytes;
}

export function newShell(): Uint8Array<ArrayBuffer> {
  return new Uint8Array([0x06]);
}

/** Asks to lead. */
export function lead(): Uint8Array<ArrayBuffer> {
  return new Uint8Array([0x07]);
}

function frame(kind: number, body: Uint8Array): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(body.length + 1);
  bytes[0] = kind;
  bytes.set(body, 1);
  return bytes;
}
