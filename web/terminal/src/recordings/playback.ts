/** When each event of a recording is shown, with long pauses shortened, and where the playing is. Pure: clocks are passed in. */

import type { CastEvent } from "./cast";

/** The events, each with the second at which it is shown. */
export class Reel {
  readonly events: CastEvent[] = [];
  /** Position and words of what is to be told beside the output. */
  markers: { position: number; text: string }[] = [];
  private shown: number[] = [];

  /** @param idle seconds that a pause takes at most; Infinity leaves all as they were */
  constructor(private idle: number) {}

  /** Seconds it takes to show all there is so far. */
  get length(): number {
    return this.shown.at(-1) ?? 0;
  }

  add(events: readonly CastEvent[]): void {
    for (const event of events) {
      const before = this.events.at(-1)?.time ?? 0;
      this.shown.push(this.length + Math.min(this.idle, event.time - before));
      this.events.push(event);
      if (event.code === "m") this.markers.push({ position: this.length, text: event.data });
      if (event.code === "x") this.markers.push({ position: this.length, text: `The shell ended with status ${event.data}` });
    }
  }

  /** How many events have been shown at a position. */
  count(position: number): number {
    let low = 0;
    let high = this.shown.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.shown[middle] ?? 0) <= position) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Changes how long pauses take; returns where a position is from now on: in the same pause, or at the same event. */
  setIdle(idle: number, position: number): number {
    const index = this.count(position);
    const since = position - (this.shown[index - 1] ?? 0);
    const events = this.events.splice(0);
    [this.shown, this.markers] = [[], []];
    this.idle = idle;
    this.add(events);
    const from = this.shown[index - 1] ?? 0;
    return Math.min(from + since, this.shown[index] ?? from);
  }

  /** What is to be told at a position: the newest words that are not older than so many seconds. */
  told(position: number, seconds: number): string {
    return this.markers.filter((marker) => marker.position <= position && position - marker.position < seconds).at(-1)?.text ?? "";
  }
}

export const SPEEDS = [0.5, 1, 2, 4, 8] as const;

/** Where the playing is: moves with a clock of milliseconds while it plays. */
export class Playhead {
  playing = false;
  private from = 0;
  private since = 0;
  private rate = 1;

  constructor(private readonly now: () => number) {}

  /** Seconds from the beginning. */
  get position(): number {
    return this.playing ? this.from + ((this.now() - this.since) / 1000) * this.rate : this.from;
  }

  get speed(): number {
    return this.rate;
  }

  play(): void {
    this.seek(this.position);
    this.playing = true;
  }

  pause(): void {
    this.seek(this.position);
    this.playing = false;
  }

  seek(position: number): void {
    this.from = Math.max(0, position);
    this.since = this.now();
  }

  setSpeed(speed: number): void {
    this.seek(this.position);
    this.rate = speed;
  }

  /** The next faster or slower speed. */
  change(steps: number): void {
    const at = SPEEDS.findIndex((speed) => speed >= this.rate);
    this.setSpeed(SPEEDS[Math.min(SPEEDS.length - 1, Math.max(0, at + steps))] ?? 1);
  }

  /** Stops at the end of what there is; tells whether it had come there. */
  stopAt(end: number, more: boolean): boolean {
    if (this.position < end) return false;
    this.seek(end);
    if (!more) this.playing = false;
    return true;
  }
}

/** Seconds as 1:05 or 1:02:09. */
export function clock(seconds: number): string {
  const whole = Math.floor(seconds + 1e-6);
  const two = (value: number): string => String(value).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}
