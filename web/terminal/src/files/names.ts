/** Paths, sizes and times as the page writes them. Pure. */

/** Adds names to a percent-encoded folder; null when one cannot be written in an address (half a surrogate pair). */
export function below(folder: string, names: readonly string[]): string | null {
  try {
    return [folder.replace(/\/+$/, ""), ...names.map(encodeURIComponent)].join("/");
  } catch {
    return null;
  }
}

/** The folder a percent-encoded path lies in. */
export function parent(path: string): string {
  return path.slice(0, path.lastIndexOf("/")) || "/";
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"] as const;

/** Bytes for people, with three digits at most. */
export function bytes(count: number): string {
  let at = 0;
  let value = count;
  while (value >= 999.5 && at < UNITS.length - 1) {
    value /= 1024;
    at++;
  }
  return `${at === 0 || value >= 99.5 ? Math.round(value) : value >= 9.95 ? value.toFixed(1) : value.toFixed(2)} ${UNITS[at] ?? ""}`;
}

/** When a file was changed: the time of day where that was today, else the day. */
export function when(seconds: number, now: Date): string {
  if (!seconds) return "";
  const time = new Date(seconds * 1000);
  if (Number.isNaN(time.getTime())) return "";
  const today = time.toDateString() === now.toDateString();
  return today ? time.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" }) : time.toLocaleDateString();
}

/** How far a group has come, 0 to 1; empty files count as one byte. */
export function share(items: readonly { sent: number; file: { size: number }; status: string }[]): number {
  let done = 0;
  let all = 0;
  for (const { sent, file, status } of items) {
    if (status === "stopped" || status === "failed") continue;
    all += file.size || 1;
    done += status === "done" ? file.size || 1 : Math.min(sent, file.size);
  }
  return all ? done / all : 1;
}
