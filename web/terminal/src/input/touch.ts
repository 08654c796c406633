/** A finger that moves over the terminal, as lines to scroll; lifted while it moves, it lets them run on. Pure: times are passed in. */

/** Pixels that a finger may move and still taps. */
const SLACK = 8;
/** Milliseconds after which a finger that has not moved rests. */
const RESTS = 80;
/** Milliseconds in which what runs on loses most of its speed. */
const DECAY = 325;
/** Milliseconds of one picture at most. */
const FRAME = 64;
/** Pixels per millisecond that are as good as none, and that are fast enough. */
const [SLOWEST, FASTEST] = [0.03, 6];

export class Swipe {
  /** It is more than a tap: nothing else is to be made of it. */
  moved = false;
  private rest = 0;
  private speed = 0;

  /**
   * @param y where it began, in pixels
   * @param at milliseconds
   * @param cell height of a line in pixels
   */
  constructor(
    private y: number,
    private at: number,
    private readonly cell: number,
  ) {}

  /** The finger is there now: returns the whole lines to scroll by, those towards newer output positive. */
  move(y: number, at: number): number {
    const by = this.y - y;
    if (!this.moved && Math.abs(by) < SLACK) return 0;
    const time = Math.max(1, at - this.at);
    const speed = at - this.at > RESTS ? 0 : by / time;
    this.speed = Math.max(-FASTEST, Math.min(FASTEST, 0.4 * this.speed + 0.6 * speed));
    this.moved = true;
    this.y = y;
    this.at = at;
    return this.lines(by);
  }

  /** The finger is lifted. */
  lift(at: number): void {
    if (!this.moved || at - this.at > RESTS) this.speed = 0;
    this.at = at;
  }

  /** Lines to go on by, some time after it was lifted; null when it has come to rest. */
  glide(at: number): number | null {
    const time = Math.min(FRAME, Math.max(0, at - this.at)); // a page that stood still does not jump
    this.at = at;
    const by = this.speed * time;
    this.speed *= Math.exp(-time / DECAY);
    return Math.abs(this.speed) < SLOWEST ? null : this.lines(by);
  }

  private lines(pixels: number): number {
    this.rest += pixels / this.cell;
    const whole = Math.trunc(this.rest);
    this.rest -= whole;
    return whole + 0; // never -0
  }
}
