/** The queue of uploads: asks first, sends a few at a time, asks before it overwrites. Knows neither DOM nor network. */

import { below } from "./names";

export type Status = "waiting" | "asking" | "running" | "done" | "failed" | "stopped";

/** What the server said: `kind` is "" when all went well. */
export interface Answer {
  kind: string;
  error: string;
}

export interface Upload {
  id: number;
  /** For people: relative to the folder it goes into. */
  name: string;
  /** Where it goes, percent-encoded. */
  path: string;
  file: Blob;
  sent: number;
  /** It may replace what is there. */
  overwrite: boolean;
  status: Status;
  error: string;
}

/** What was dropped or chosen: paths relative to the folder it goes into, parents first. */
export interface Found {
  folders: string[][];
  files: { path: string[]; file: Blob }[];
}

export interface Transport {
  check(path: string, size: number, overwrite: boolean): Promise<Answer>;
  folder(path: string): Promise<Answer>;
  put(path: string, file: Blob, overwrite: boolean, sent: (bytes: number) => void): { done: Promise<Answer>; stop(): void };
}

const AT_A_TIME = 2; // the server takes four of one person: two are left for downloads
const BUSY = 1500; // milliseconds until one is tried again that was one too many, such as beside another tab's
export const LOST: Answer = { kind: "lost", error: "the connection was cut" };

export class Uploads {
  readonly all: Upload[] = [];
  private readonly waiting: Upload[] = [];
  private readonly stops = new Map<number, () => void>();
  private running = 0;
  private forAll: boolean | null = null;
  private next = 1;

  /** @param changed called after each change; `finished` with whether a file or folder came into being */
  constructor(
    private readonly transport: Transport,
    private readonly changed: (finished: boolean) => void,
  ) {}

  get busy(): boolean {
    return this.all.some(({ status }) => status === "waiting" || status === "running" || status === "asking");
  }

  /** Makes the folders and queues the files. */
  async add(into: string, found: Found): Promise<void> {
    if (!this.busy) this.forAll = null;
    const fresh = found.files.map(({ path, file }) => this.make(path.join("/"), below(into, path), file));
    const broken: string[] = [];
    this.all.push(...fresh);
    this.changed(false);
    for (const folder of found.folders) {
      const path = below(into, folder);
      const answer = path === null ? { kind: "path", error: "its name cannot be written" } : await this.transport.folder(path);
      if (answer.kind) {
        broken.push(folder.join("/") + "/");
        this.all.push({ ...this.make(folder.join("/"), null, new Blob()), error: answer.error });
      }
    }
    for (const upload of fresh) {
      if (upload.status !== "waiting") continue; // failed, or stopped meanwhile
      if (broken.some((folder) => upload.name.startsWith(folder))) this.end(upload, "failed", "its folder could not be made");
      else this.waiting.push(upload);
    }
    this.changed(found.folders.length > 0);
    this.fill();
  }

  private make(name: string, path: string | null, file: Blob): Upload {
    const broken = path === null;
    return { id: this.next++, name, path: path ?? "", file, sent: 0, overwrite: false, status: broken ? "failed" : "waiting", error: broken ? "its name cannot be written" : "" };
  }

  /** Stops one that is waiting or under way. */
  stop(id: number): void {
    const upload = this.all.find((each) => each.id === id);
    if (!upload || upload.status === "done" || upload.status === "failed") return;
    this.end(upload, "stopped", "");
    this.stops.get(id)?.();
  }

  stopAll(): void {
    this.waiting.length = 0;
    for (const { id } of this.all) this.stop(id);
  }

  /** Answers the question whether a file may be replaced. */
  answer(id: number, overwrite: boolean, forAll: boolean): void {
    if (forAll) this.forAll = overwrite;
    const asked = this.all.filter((each) => each.status === "asking" && (forAll || each.id === id));
    for (const upload of asked) this.decide(upload, overwrite);
    this.fill();
  }

  private decide(upload: Upload, overwrite: boolean): void {
    if (!overwrite) {
      this.end(upload, "stopped", "");
      return;
    }
    upload.overwrite = true;
    this.queue(upload);
  }

  retry(id: number): void {
    const upload = this.all.find((each) => each.id === id);
    if (upload?.status !== "failed" || !upload.path) return;
    Object.assign(upload, { sent: 0, error: "" });
    this.queue(upload);
    this.fill();
  }

  private queue(upload: Upload): void {
    upload.status = "waiting";
    this.waiting.push(upload);
    this.changed(false);
  }

  /** Forgets those that have ended. */
  tidy(): void {
    const kept = this.all.filter(({ status }) => status === "waiting" || status === "running" || status === "asking");
    this.all.splice(0, this.all.length, ...kept);
    this.changed(false);
  }

  private fill(): void {
    while (this.running < AT_A_TIME) {
      const upload = this.waiting.shift();
      if (!upload) return;
      if (upload.status !== "waiting") continue; // stopped meanwhile
      upload.status = "running";
      this.running++;
      void this.run(upload).finally(() => {
        this.running--;
        this.fill();
      });
    }
  }

  private async run(upload: Upload): Promise<void> {
    this.changed(false);
    const size = upload.file.size;
    let answer = await this.transport.check(upload.path, size, upload.overwrite);
    if (!live(upload)) return;
    if (answer.kind === "exists") {
      if (this.forAll === null) upload.status = "asking";
      else this.decide(upload, this.forAll);
      this.changed(false);
      return;
    }
    if (!answer.kind) {
      const sending = this.transport.put(upload.path, upload.file, upload.overwrite, (bytes) => {
        upload.sent = bytes;
        this.changed(false);
      });
      this.stops.set(upload.id, () => sending.stop());
      answer = await sending.done;
      this.stops.delete(upload.id);
      if (!live(upload)) return;
      if (answer.kind === LOST.kind) {
        const why = await this.transport.check(upload.path, size, upload.overwrite); // a full disk cuts the connection too
        if (why.kind) answer = why;
        if (!live(upload)) return;
      }
    }
    if (answer.kind !== "busy") {
      this.end(upload, answer.kind ? "failed" : "done", answer.error);
      return;
    }
    upload.status = "waiting";
    this.changed(false);
    setTimeout(() => {
      if (upload.status !== "waiting") return;
      this.queue(upload);
      this.fill();
    }, BUSY);
  }

  private end(upload: Upload, status: Status, error: string): void {
    upload.status = status;
    upload.error = error;
    if (status === "done") upload.sent = upload.file.size;
    this.changed(status === "done");
  }
}

function live(upload: Upload): boolean {
  return upload.status === "running";
}
