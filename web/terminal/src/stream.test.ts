import { beforeEach, expect, test } from "vitest";
import type { ServerFrame } from "./protocol";
import { OutputStream } from "./stream";

/** An emulator whose parsing the test steps by hand. */
class Slow {
  queue: { data: string; done: (() => void) | undefined }[] = [];
  seen = "";
  write(data: Uint8Array | string, done?: () => void): void {
    this.queue.push({ data: typeof data === "string" ? data : new TextDecoder().decode(data), done });
  }
  parse(count = Infinity): void {
    for (let n = 0; n < count; n += 1) {
      const next = this.queue.shift();
      if (!next) return;
      this.seen = next.data === "\x1bc" ? "" : this.seen + next.data;
      next.done?.();
    }
  }
}

let emulator: Slow;
let acks: [number, number][];
let stream: OutputStream;
let settled: number;
const welcome = (epoch = "e"): ServerFrame => ({ kind: "welcome", version: 1, session: "s", shell: "main", epoch });
const output = (offset: number, text: string): ServerFrame => ({ kind: "output", offset, data: new TextEncoder().encode(text) });
const begin = (offset: number, reset: boolean): ServerFrame => ({ kind: "replay-begin", offset, reset, preamble: new Uint8Array() });
const end = (offset: number): ServerFrame => ({ kind: "replay-end", offset });

beforeEach(() => {
  emulator = new Slow();
  acks = [];
  settled = 0;
  stream = new OutputStream(emulator, (parsed, received) => acks.push([parsed, received]), () => (settled += 1));
});

function takes(...frames: ServerFrame[]): boolean {
  return frames.every((frame) => stream.take(frame));
}

test("acks say what was parsed, not what was received", () => {
  takes(welcome(), begin(0, true), end(0), output(0, "abc"), output(3, "de"));
  expect(acks).toEqual([]);
  emulator.parse();
  expect(acks.at(-1)).toEqual([5, 5]);
  expect(emulator.seen).toBe("abcde");
});

test("no answers are sent until the replay has been parsed", () => {
  takes(welcome(), begin(0, true), output(0, "old"), end(3), output(3, "new"));
  emulator.parse(2);
  expect(stream.replaying).toBe(true);
  expect(settled).toBe(0);
  emulator.parse(1);
  expect(stream.replaying).toBe(false);
  expect(settled).toBe(1);
});

test("a replay that is parsed after its connection has gone settles nothing", () => {
  takes(welcome(), begin(0, true), output(0, "old"), end(3));
  stream.disconnected();
  emulator.parse();
  expect(settled).toBe(0);
  takes(welcome(), begin(3, false), end(3));
  emulator.parse();
  expect(settled).toBe(1);
});

test("after a drop only the rest is asked for, and taken", () => {
  takes(welcome(), begin(0, true), end(0), output(0, "abc"));
  stream.disconnected();
  emulator.parse();
  expect(acks).toEqual([]);
  expect(stream.position()).toEqual({ epoch: "e", offset: 3 });
  expect(takes(welcome(), begin(3, false), output(3, "de"), end(5))).toBe(true);
  emulator.parse();
  expect(emulator.seen).toBe("abcde");
  expect(acks.at(-1)).toEqual([5, 5]);
});

test("a gap is noticed", () => {
  takes(welcome(), begin(0, true), end(0), output(0, "abc"));
  expect(stream.take(output(4, "x"))).toBe(false);
  expect(stream.take(output(2, "x"))).toBe(false);
});

test("what was queued before another epoch is no progress in it", () => {
  takes(welcome(), begin(0, true), end(0), output(0, "a".repeat(100)));
  stream.disconnected();
  takes(welcome("other"), begin(0, true), output(0, "hi"), end(2));
  emulator.parse();
  expect(acks.every(([parsed]) => parsed <= 2)).toBe(true);
  expect(emulator.seen).toBe("hi");
});
