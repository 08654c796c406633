/** Who has come since this page is open: nobody watches unseen. Pure. */

import type { State } from "../protocol";
import { called, ROLE } from "./words";

export class Company {
  private readonly known = new Set<string>();
  private readonly begun = new Set<string>();

  /** Takes a STATE of a shell; returns the sentence that tells of who is new, "" for nobody. Who was there before us is not new. */
  take(shell: string, { you, people }: Pick<State, "you" | "people">): string {
    const fresh = people.filter(({ id }) => id !== you && !this.known.has(id));
    for (const { id } of people) this.known.add(id);
    const first = !this.begun.has(shell);
    this.begun.add(shell);
    if (first || fresh.length === 0) return "";
    const names = [...new Map(fresh.map((person) => [person.id, `${called(person)} (${ROLE[person.role].toLowerCase()})`])).values()];
    return `Here now: ${names.join(", ")}.`;
  }
}
