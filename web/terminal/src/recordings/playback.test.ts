import { expect, test } from "vitest";
import { CastReader, sizeOf, type CastEvent } from "./cast";
import { clock, Playhead, Reel } from "./playback";

const FILE = [
  '{"version": 3, "term": {"cols": 100, "rows": 30, "type": "xterm-256color"}, "timestamp": 1764279000, "title": "main"}',
  '[0.500, "o", "h\u00e9\\r\\n\\u001b[1m"]', "# a comment", '[10.000, "r", "90x20"]', '[0.250, "m", "killed by TERM"]', '[0.000, "x", "3"]', "",
].join("\n");

test("a file is read whatever the pieces", () => {
  for (const size of [1, 3, 64, 1000]) {
    const reader = new CastReader();
    const events: CastEvent[] = [];
    for (let at = 0; at < FILE.length; at += size) events.push(...reader.push(FILE.slice(at, at + size)));
    expect(reader.header).toEqual({ cols: 100, rows: 30 });
    expect(events).toEqual([
      { time: 0.5, code: "o", data: "h\u00e9\r\n\u001b[1m" }, { time: 10.5, code: "r", data: "90x20" },
      { time: 10.75, code: "m", data: "killed by TERM" }, { time: 10.75, code: "x", data: "3" },
    ]);
  }
});

test("half a last line is no event, and what is no recording is refused", () => {
  const reader = new CastReader();
  expect(reader.push(FILE.split("\n").slice(0, 2).join("\n") + '\n[9.0, "o", "hal')).toHaveLength(1);
  expect(() => new CastReader().push('{"version": 2, "width": 80, "height": 24}\n')).toThrow("no recording");
});

test("sizes are checked", () => {
  expect(sizeOf("90x20")).toEqual({ cols: 90, rows: 20 });
  for (const wrong of ["", "90", "0x20", "90x100000", "axb", "-1x5"]) expect(sizeOf(wrong)).toBeNull();
});

const at = (...times: number[]): CastEvent[] => times.map((time) => ({ time, code: "o", data: String(time) }));

test("pauses are shortened, and only pauses", () => {
  const reel = new Reel(2);
  reel.add(at(0.5, 1, 61, 62));
  reel.add(at(62.5, 100));
  expect(reel.length).toBe(0.5 + 0.5 + 2 + 1 + 0.5 + 2);
  const whole = new Reel(Infinity);
  whole.add(at(0.5, 1, 61, 62));
  expect(whole.length).toBe(62);
});

test("what is shown at a position, its edges included", () => {
  const reel = new Reel(Infinity);
  expect(reel.count(5)).toBe(0);
  reel.add(at(0, 1, 1, 2));
  expect([-1, 0, 0.9, 1, 1.5, 2, 9].map((position) => reel.count(position))).toEqual([0, 1, 1, 3, 3, 4, 4]);
});

test("shortening pauses keeps the place", () => {
  const reel = new Reel(Infinity);
  reel.add(at(1, 61, 62));
  expect(reel.setIdle(2, 30)).toBe(3); // 29 s into a pause that takes 2 now
  expect(reel.count(2.9)).toBe(1);
  expect(reel.setIdle(Infinity, 3.5)).toBe(61.5);
  expect(reel.setIdle(2, 62)).toBe(4);
});

test("markers are told where they are shown, for a while", () => {
  const reel = new Reel(Infinity);
  reel.add([...at(1, 61), { time: 61.5, code: "m", data: "left out" }, ...at(99), { time: 99, code: "x", data: "3" }]);
  reel.setIdle(2, 0);
  expect([0, 3.4, 3.5, 4.4, 5, 5.5, 8].map((position) => reel.told(position, 1))).toEqual(["", "", "left out", "left out", "", "The shell ended with status 3", ""]);
});

test("the playhead moves with the clock, its speed and the user", () => {
  let now = 1000;
  const head = new Playhead(() => now);
  now += 5000;
  expect(head.position).toBe(0);
  head.play();
  now += 2000;
  expect(head.position).toBe(2);
  head.setSpeed(4);
  now += 500;
  expect(head.position).toBe(4);
  head.pause();
  now += 9000;
  expect(head.position).toBe(4);
  head.seek(-3);
  expect(head.position).toBe(0);
  head.seek(7);
  head.play();
  now += 1000;
  expect(head.position).toBe(11);
  expect(head.stopAt(12, false)).toBe(false);
  expect(head.stopAt(10, true)).toBe(true); // more is to come: it waits there
  expect([head.position, head.playing]).toEqual([10, true]);
  expect(head.stopAt(10, false)).toBe(true);
  expect([head.position, head.playing]).toEqual([10, false]);
});

test("speeds change one step at a time, and no further than they go", () => {
  const head = new Playhead(() => 0);
  const change = (steps: number): number => (head.change(steps), head.speed);
  expect([change(1), change(1), change(1), change(1)]).toEqual([2, 4, 8, 8]);
  expect([change(-1), change(-1), change(-1), change(-1), change(-1)]).toEqual([4, 2, 1, 0.5, 0.5]);
});

test("times for people", () => {
  expect([0, 9.99, 65, 3729].map(clock)).toEqual(["0:00", "0:09", "1:05", "1:02:09"]);
});
