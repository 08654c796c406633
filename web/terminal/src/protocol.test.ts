import { expect, test } from "vitest";
import * as protocol from "./protocol";

const bytes = (...values: number[]): ArrayBuffer => new Uint8Array(values).buffer;

test("output carries its offset beyond 32 bits", () => {
  const frame = protocol.decode(bytes(0x82, 0, 0, 0, 2, 0, 0, 0, 5, 104, 105));
  expect(frame).toEqual({ kind: "output", offset: 2 * 2 ** 32 + 5, data: new Uint8Array([104, 105]) });
});

test("replay marks", () => {
  expect(protocol.decode(bytes(0x83, 0, 0, 0, 0, 0, 0, 0, 9, 1, 27))).toEqual({
    kind: "replay-begin", offset: 9, reset: true, preamble: new Uint8Array([27]),
  });
  expect(protocol.decode(bytes(0x84, 0, 0, 0, 0, 0, 0, 1, 0))).toEqual({ kind: "replay-end", offset: 256 });
});

test("an unknown type is passed over", () => {
  expect(protocol.decode(bytes(0xf0, 1))).toEqual({ kind: "unknown" });
});

test("a field of the JSON cannot change what kind of frame it is", () => {
  const body = new TextEncoder().encode(JSON.stringify({ kind: "output", status: 1, signal: null, reason: "exited" }));
  const message = new Uint8Array([0x85, ...body]).buffer;
  expect(protocol.decode(message).kind).toBe("exit");
});

test("a server that says nothing of the machine is understood, and one that does", () => {
  const state = (fields: object): protocol.ServerFrame =>
    protocol.decode(new Uint8Array([0x86, ...new TextEncoder().encode(JSON.stringify(fields))]).buffer);
  const old = { guest: "live", lead: true, cols: 80, rows: 24, clients: 1 };
  const unsaid = { machine: null, guest_ms: null, sizes: true, shells: [], role: "owner", you: "", people: [], recording: false };
  expect(state(old)).toEqual({ kind: "state", ...unsaid, ...old });
  const machine = { state: "paused", paused: "idle", boots: 1, how: "boot", name: "", reason: "" };
  expect(state({ ...old, machine })).toEqual({ kind: "state", ...unsaid, ...old, machine });
});

test("ack is two offsets", () => {
  expect([...protocol.ack(2 ** 32 + 1, 258)]).toEqual([4, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2]);
});

test("a large paste is cut into frames and stays whole", () => {
  const text = "é中😀".repeat(20_000);
  const frames = protocol.input(text);
  expect(frames.length).toBeGreaterThan(1);
  expect(Math.max(...frames.map((frame) => frame.length))).toBeLessThanOrEqual(protocol.MAX_INPUT + 1);
  const joined = new Uint8Array(frames.reduce((sum, frame) => sum + frame.length - 1, 0));
  let at = 0;
  for (const frame of frames) {
    joined.set(frame.subarray(1), at);
    at += frame.length - 1;
  }
  expect(new TextDecoder().decode(joined)).toBe(text);
});

test("binary input is a byte a character", () => {
  expect([...(protocol.binaryInput("\x1b[M\xe0\x21")[0] ?? [])]).toEqual([2, 27, 91, 77, 0xe0, 0x21]);
});
