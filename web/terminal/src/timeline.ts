/** The stages of a session's start as the waiting view shows them. Pure. */

export interface Entry {
  t: number;
  stage: string;
  event: "start" | "done" | "failed";
  detail: string;
}

export interface TimelineReply {
  session: string;
  now: number;
  guest: string;
  stages: string[];
  entries: Entry[];
}

export interface Step {
  stage: string;
  label: string;
  step: "pending" | "running" | "done" | "failed";
  /** Seconds it took, or has taken so far; null before it began. */
  seconds: number | null;
  detail: string;
}

const LABELS: Record<string, string> = {
  rootfs: "Disk",
  network: "Network",
  vmm: "Virtual machine",
  kernel: "Kernel",
  init: "System services",
  sshd: "SSH",
  dockerd: "Docker",
  terminal: "Terminal",
  editor: "Editor",
};

/** The last word on each stage, in the order of the stages. */
export function steps(reply: TimelineReply): Step[] {
  return reply.stages.map((stage) => {
    let started: number | null = null;
    let last: Entry | null = null;
    for (const entry of reply.entries) {
      if (entry.stage !== stage) continue;
      if (entry.event === "start") started = entry.t;
      last = entry;
    }
    const label = LABELS[stage] ?? stage;
    if (last === null) return { stage, label, step: "pending", seconds: null, detail: "" };
    const end = last.event === "start" ? reply.now : last.t;
    const step = last.event === "start" ? "running" : last.event;
    return { stage, label, step, seconds: started === null ? null : Math.max(0, end - started), detail: last.detail };
  });
}

/** How it goes, in a sentence: what is being done, or what has failed. */
export function outlook(all: readonly Step[]): string {
  const failed = all.find(({ step }) => step === "failed");
  if (failed) return `${failed.label} has failed${failed.detail ? `: ${failed.detail.replace(/\.$/, "")}` : ""}. If it does not go on by itself, tell who runs this lab.`;
  const now = all.filter(({ step }) => step === "running").at(-1);
  return `${now ? `${now.label} is on its way. ` : ""}The terminal opens by itself as soon as the machine answers.`;
}

export function formatSeconds(seconds: number | null): string {
  if (seconds === null) return "";
  return seconds < 10 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds)} s`;
}
