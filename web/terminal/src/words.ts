/** How things are, in words: from what is known to what the page says. Pure. */

import type { GuestState, Machine } from "./protocol";

export type State = "connecting" | "waiting" | "live" | "reconnecting" | "paused" | "restarting" | "failed" | "ended";

export interface Facts {
  /** A WELCOME has come and its replay was parsed, and the socket is still there: keys are sent. */
  connected: boolean;
  /** This page has been connected before. */
  seen: boolean;
  guest: GuestState;
  /** What the machine itself is doing; null where nobody says. */
  machine: Machine | null;
  /** How many boots there had been when the guest was live; null before. */
  liveBoots: number | null;
  /** How the shell ended; null while it has not. */
  ended: string | null;
  session: string;
}

export interface Words {
  state: State;
  /** In the header. */
  pill: string;
  /** In the bar over the terminal; "" for none. */
  notice: string;
  /** The bar's button; "" for none. */
  action: string;
}

const NEW_SHELL = "A new shell opens as soon as it answers.";

export function words(facts: Facts): Words {
  const { connected, guest, machine, ended } = facts;
  if (!connected && !facts.seen) return said("connecting", "Connecting");
  if (!connected) return said("reconnecting", "Reconnecting", "Connection lost. Your shell runs on; reconnecting…");
  if (machine?.state === "paused") return said("paused", "Paused", paused(machine.paused, facts.session));
  if (ended !== null) return { state: "ended", pill: "Ended", notice: `${ended} Press Enter for a new one.`, action: "New shell" };
  if (guest === "live") return said("live", "Live");
  if (guest === "waiting") return said("waiting", "Starting");
  return lost(facts);
}

/** Milliseconds of one leg or two: page to server, and server to guest where that is known. */
export function latencyInWords(server: number | null, guest: number | null): string {
  if (server === null) return "";
  const legs = [server, ...(guest === null ? [] : [guest])];
  return `${legs.map((leg) => (leg < 1 ? "<1" : String(Math.round(leg)))).join(" + ")} ms`;
}

function said(state: State, pill: string, notice = ""): Words {
  return { state, pill, notice, action: "" };
}

function paused(why: string, session: string): string {
  if (why === "idle") return "Paused: nobody was here. Waking up…";
  if (why === "disk") return "Paused: the host's disk is full. It goes on by itself as soon as there is room; what you type waits.";
  if (why === "saving") return "Paused while a checkpoint is saved; what you type waits.";
  if (why === "asked") return `Paused. \`dozlab resume ${session}\` lets it go on; what you type waits.`;
  return "Paused. What you type waits.";
}

function lost({ machine, liveBoots }: Facts): Words {
  if (machine?.state === "failed") return said("failed", "Failed", `The machine has failed${machine.reason ? `: ${machine.reason}` : "."}`);
  if (machine?.state === "stopping") return said("restarting", "Stopping", "The machine is being stopped.");
  if (machine?.state === "stopped") return said("failed", "Stopped", "The machine has been stopped.");
  if (machine && machine.boots !== liveBoots) {
    if (machine.how === "checkpoint") return said("restarting", "Setting back", `Set back to checkpoint ${machine.name}. ${NEW_SHELL}`);
    if (machine.how === "clean") return said("restarting", "Setting back", `Set back to the clean image. ${NEW_SHELL}`);
    if (machine.how === "boot" || machine.how === "snapshot") return said("restarting", "Machine restarting", `Restarting. ${NEW_SHELL}`);
  }
  return said("restarting", "Machine restarting", "The machine does not answer: it restarts, or has been stopped. A new shell opens as soon as it is back.");
}
