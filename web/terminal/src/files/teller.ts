/** What is said of the uploads to who does not see them: that one asks, and how all have ended. Pure. */

import type { Status } from "./uploads";

export class Teller {
  private busy = false;
  private asked = false;

  /** Takes how they are now; returns what to say, "" for nothing.
   *
   * @param seen the panel is open: a question is seen there
   */
  take(all: readonly { status: Status }[], seen: boolean): string {
    const count = (...wanted: Status[]): number => all.filter(({ status }) => wanted.includes(status)).length;
    const [asking, under] = [count("asking"), count("waiting", "running")];
    const was = this.busy;
    this.busy = asking + under > 0;
    if (asking === 0 || seen) this.asked = false;
    else if (!this.asked) {
      this.asked = true;
      return "There is a file of that name already: open Files to say what to do.";
    }
    const [done, failed] = [count("done"), count("failed")];
    if (!was || this.busy || done + failed === 0) return "";
    return `${done} of ${all.length} uploaded${failed ? `, ${failed} failed` : ""}.`;
  }
}
