/** People in words: who is here, what may be done, when an invitation ends. Pure. */

import type { Role, State } from "../protocol";

/** A client of some shell, as GET people lists it. */
export interface Here {
  id: string;
  name: string;
  role: Role;
  shell: string;
  leads: boolean;
}

export interface Invitation {
  id: string;
  role: Role;
  name: string;
  used: boolean;
  /** Seconds until it ends. */
  left: number;
}

/** One person with all the shells that are open in that browser. */
export interface Person {
  id: string;
  name: string;
  role: Role;
  shells: string[];
  leads: boolean;
}

export const ROLE: Record<Role, string> = { owner: "Owner", editor: "Editor", viewer: "Viewer" };

export const MEANS: Record<Role, string> = {
  viewer: "Sees the terminals, types nothing.",
  editor: "Types as well.",
  owner: "Types, decides the size, invites others.",
};

/** One row a person: `leads` tells of the given shell. Owners first, then in the order they came. */
export function persons(here: readonly Here[], shell: string): Person[] {
  const found = new Map<string, Person>();
  for (const { id, name, role, shell: one, leads } of here) {
    const person = found.get(id) ?? { id, name, role, shells: [], leads: false };
    if (!person.shells.includes(one)) person.shells.push(one);
    person.leads ||= leads && one === shell;
    found.set(id, person);
  }
  const order: readonly Role[] = ["owner", "editor", "viewer"];
  return [...found.values()].sort((a, b) => order.indexOf(a.role) - order.indexOf(b.role));
}

/** What a person is called who gave no name. */
export function called(person: { name: string; role: Role }): string {
  return person.name || (person.role === "owner" ? "Owner" : "Guest");
}

/** Where else somebody is, when not in the given shell alone.
 *
 * @param nameOf what a shell is called on this page
 */
export function where(shells: readonly string[], shell: string, nameOf: (shell: string) => string): string {
  return shells.length === 1 && shells[0] === shell ? "" : `in ${shells.map(nameOf).join(", ")}`;
}

export function endsIn(seconds: number): string {
  const minutes = Math.ceil(seconds / 60);
  if (minutes < 120) return `${minutes} min`;
  const hours = Math.round(minutes / 60);
  return hours < 48 ? `${hours} h` : `${Math.round(hours / 24)} days`;
}

/** What is said of leading, and whether there is something to take over. */
export function leading(state: Pick<State, "lead" | "role" | "people">): { text: string; offer: boolean } {
  if (state.role === "viewer") return { text: "You watch: this link lets you see, not type.", offer: false };
  if (state.lead) return { text: state.people.length > 1 ? "You lead this terminal." : "", offer: false };
  const leader = state.people.find((person) => person.leads);
  return { text: leader ? `${called(leader)} leads this terminal.` : "Nobody leads this terminal.", offer: true };
}

export const ENDS: readonly { seconds: number; label: string }[] = [
  { seconds: 1800, label: "30 minutes" },
  { seconds: 7200, label: "2 hours" },
  { seconds: 28800, label: "8 hours" },
  { seconds: 86400, label: "1 day" },
  { seconds: 604800, label: "7 days" },
];
