/** asciicast, version 3, as the server sends it: text in pieces to a header and events. Pure. */

export interface Header {
  cols: number;
  rows: number;
}

export interface CastEvent {
  /** Seconds from the beginning. */
  time: number;
  /** o: output, i: input, r: a new size, m: a marker, x: the exit status. */
  code: string;
  data: string;
}

const MOST_CELLS = 1000;

function cells(value: unknown, fallback: number): number {
  const count = Math.trunc(Number(value));
  return count >= 1 && count <= MOST_CELLS ? count : fallback;
}

/** The size that an event of code r tells; null when it is none. */
export function sizeOf(data: string): { cols: number; rows: number } | null {
  const [cols, rows] = data.split("x").map((part) => cells(part, 0));
  return cols && rows ? { cols, rows } : null;
}

export class CastReader {
  header: Header | null = null;
  private rest = "";
  private time = 0;

  /** Takes the next piece of the file; returns the events whose lines it completes. What is no event is passed over. */
  push(text: string): CastEvent[] {
    const lines = (this.rest + text).split("\n");
    this.rest = lines.pop() ?? "";
    const events: CastEvent[] = [];
    for (const line of lines) {
      if (this.header === null) this.header = this.readHeader(line);
      else this.read(line, events);
    }
    return events;
  }

  private readHeader(line: string): Header {
    const raw = JSON.parse(line) as { version?: unknown; term?: { cols?: unknown; rows?: unknown } };
    if (raw.version !== 3) throw new Error("This is no recording that the page can play.");
    return { cols: cells(raw.term?.cols, 80), rows: cells(raw.term?.rows, 24) };
  }

  private read(line: string, events: CastEvent[]): void {
    if (!line.startsWith("[")) return; // a comment
    const [interval, code, data] = JSON.parse(line) as unknown[];
    if (typeof interval !== "number" || typeof code !== "string" || typeof data !== "string") return;
    this.time += Math.max(0, interval);
    events.push({ time: this.time, code, data });
  }
}
