import { expect, test } from "vitest";
import { Backoff } from "./backoff";
import { formatSeconds, outlook, steps, type Entry } from "./timeline";

const entry = (t: number, stage: string, event: Entry["event"], detail = ""): Entry => ({ t, stage, event, detail });

test("each stage has its last word and the time it took", () => {
  const shown = steps({
    session: "s", now: 20, guest: "waiting", stages: ["rootfs", "kernel", "sshd"],
    entries: [entry(10, "rootfs", "start"), entry(12.5, "rootfs", "done"), entry(13, "kernel", "start"),
      entry(14, "kernel", "failed", "stood still"), entry(15, "kernel", "start", "second try")],
  });
  expect(shown.map(({ label, step, seconds, detail }) => [label, step, seconds, detail])).toEqual([
    ["Disk", "done", 2.5, ""], ["Kernel", "running", 5, "second try"], ["SSH", "pending", null, ""],
  ]);
});

test("how it goes is a sentence: what is done now, or what has failed", () => {
  const told = (...entries: Entry[]): string => outlook(steps({ session: "s", now: 20, guest: "waiting", stages: ["rootfs", "kernel"], entries }));
  expect(told()).toBe("The terminal opens by itself as soon as the machine answers.");
  expect(told(entry(1, "rootfs", "done"), entry(2, "kernel", "start"))).toContain("Kernel is on its way. The terminal opens");
  expect(told(entry(1, "rootfs", "failed", "no room."), entry(2, "kernel", "start"))).toContain("Disk has failed: no room. If it does not go on");
});

test("a clock that jumps gives no negative time", () => {
  const [step] = steps({ session: "s", now: 1, guest: "", stages: ["vmm"], entries: [entry(9, "vmm", "start")] });
  expect(formatSeconds(step?.seconds ?? null)).toBe("0.0 s");
});

test("back-off doubles to its limit, is spread, and starts over", () => {
  const even = new Backoff(() => 1);
  expect([1, 2, 3, 4, 5, 6, 7].map(() => even.next())).toEqual([400, 800, 1600, 3200, 6400, 8000, 8000]);
  even.reset();
  expect(even.next()).toBe(400);
  expect(new Backoff(() => 0).next()).toBe(280);
});
