import { expect, test } from "vitest";
import type { Machine } from "./protocol";
import { latencyInWords, words, type Facts } from "./words";

const machine = (fields: Partial<Machine>): Machine => ({ state: "running", paused: "", boots: 1, how: "boot", name: "", reason: "", ...fields });
const facts = (fields: Partial<Facts>): Facts => ({ connected: true, seen: true, guest: "live", machine: null, liveBoots: null, ended: null, session: "lab1", ...fields });
const notice = (fields: Partial<Facts>): string => words(facts(fields)).notice;

test("a server that says nothing of the machine is shown as ever", () => {
  const shown = (fields: Partial<Facts>): string => words(facts(fields)).state;
  expect(shown({ connected: false, seen: false })).toBe("connecting");
  expect(shown({ connected: false })).toBe("reconnecting");
  expect(shown({ guest: "waiting" })).toBe("waiting");
  expect(shown({})).toBe("live");
  expect(notice({})).toBe("");
  expect(notice({ guest: "lost" })).toContain("does not answer");
  expect(words(facts({ ended: "It has ended." }))).toMatchObject({ state: "ended", action: "New shell" });
});

test("each pause has its reason and its way out", () => {
  const paused = (why: string): string => notice({ machine: machine({ state: "paused", paused: why }) });
  expect(paused("idle")).toBe("Paused: nobody was here. Waking up…");
  expect(paused("asked")).toContain("Paused. `dozlab resume lab1` lets it go on");
  expect(paused("disk")).toContain("Paused: the host's disk is full");
  expect(paused("saving")).toContain("Paused while a checkpoint is saved");
  expect(paused("")).toContain("Paused.");
});

test("a pause is said before all but a lost connection, and is over when it is over", () => {
  const still = machine({ state: "paused", paused: "asked" });
  expect(words(facts({ machine: still, guest: "lost" })).state).toBe("paused");
  expect(words(facts({ machine: still, ended: "It has ended." })).action).toBe("");
  expect(words(facts({ machine: still, connected: false })).state).toBe("reconnecting");
  expect(words(facts({ machine: machine({}), liveBoots: 1 })).notice).toBe("");
});

test("what takes the place of the guest that was there is named", () => {
  const lost = (fields: Partial<Machine>, liveBoots = 1): string => notice({ guest: "lost", liveBoots, machine: machine({ state: "starting", boots: 2, ...fields }) });
  expect(lost({ how: "checkpoint", name: "before-lab" })).toContain("Set back to checkpoint before-lab.");
  expect(lost({ how: "clean" })).toContain("Set back to the clean image.");
  expect(lost({ how: "boot" })).toContain("Restarting.");
  expect(lost({ how: "snapshot" })).toContain("Restarting.");
  expect(lost({ how: "of the future" })).toContain("does not answer");
  expect(lost({ how: "clean" }, 2)).toContain("does not answer"); // that was before
});

test("an end is said with its reason", () => {
  const lost = (fields: Partial<Machine>): string => notice({ guest: "lost", liveBoots: 1, machine: machine(fields) });
  expect(lost({ state: "failed", reason: "kernel panic" })).toBe("The machine has failed: kernel panic");
  expect(lost({ state: "failed" })).toBe("The machine has failed.");
  expect(lost({ state: "stopping" })).toContain("being stopped");
  expect(lost({ state: "stopped" })).toContain("been stopped");
});

test("the way is told in one leg or two", () => {
  expect([latencyInWords(null, 3), latencyInWords(12.4, null), latencyInWords(12.6, 0.4)]).toEqual(["", "12 ms", "13 + <1 ms"]);
});
