import { expect, test } from "vitest";
import { Swipe } from "./touch";

test("a tap moves nothing, and lines follow the finger to the pixel", () => {
  const tap = new Swipe(100, 0, 20);
  expect([tap.move(104, 16), tap.moved]).toEqual([0, false]);
  const swipe = new Swipe(100, 0, 20);
  expect([110, 119, 121, 160, 100].map((y, at) => swipe.move(y, 16 * (at + 1)))).toEqual([0, 0, -1, -2, 3]);
  expect(swipe.moved).toBe(true);
});

test("it runs on when it is lifted while it moves, slower and slower to rest", () => {
  const swipe = new Swipe(500, 0, 20);
  for (let at = 1; at <= 6; at += 1) swipe.move(500 - 30 * at, 16 * at);
  swipe.lift(100);
  const steps: number[] = [];
  for (let at = 116; ; at += 16) {
    const lines = swipe.glide(at);
    if (lines === null) break;
    steps.push(lines);
    expect(steps.length).toBeLessThan(300);
  }
  const sum = (part: number[]): number => part.reduce((all, each) => all + each, 0);
  expect(sum(steps)).toBeGreaterThan(10);
  expect(steps.every((each) => each >= 0)).toBe(true);
  expect(sum(steps.slice(0, 10))).toBeGreaterThan(sum(steps.slice(-10)));
});

test("it does not run on when the finger has rested", () => {
  const swipe = new Swipe(500, 0, 20);
  swipe.move(300, 16);
  swipe.lift(400);
  expect(swipe.glide(416)).toBeNull();
});
