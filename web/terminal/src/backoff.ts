/** How long to wait before the next attempt to connect. Pure. */

const FIRST = 400;
const LONGEST = 8000;

export class Backoff {
  private attempt = 0;

  constructor(private readonly random: () => number = Math.random) {}

  /** Milliseconds until the next attempt: doubling, with jitter so that a class of 30 does not come back as one. */
  next(): number {
    const base = Math.min(FIRST * 2 ** this.attempt, LONGEST);
    this.attempt += 1;
    return base * (0.7 + 0.3 * this.random());
  }

  reset(): void {
    this.attempt = 0;
  }
}
