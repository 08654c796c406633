/** The panel of the machine's files: where one is, what is there, up- and downloads. */

import "./files.css";
import { exchange, focusIsIn, icon, iconButton, make } from "../dom";
import type { Context, Panel } from "../panels";
import { below, bytes, parent, share, when } from "./names";
import { Teller } from "./teller";
import { type Answer, LOST, type Transport, type Upload, Uploads } from "./uploads";
import { chosen, dropped } from "./walk";

interface Entry {
  name: string;
  path: string;
  kind: "folder" | "file" | "other";
  link: boolean;
  size: number;
  time: number;
}

interface Listing {
  path: string;
  crumbs: { name: string; path: string }[];
  entries: Entry[];
  more: boolean;
  free: number | null;
}

const FOLDER = "M3 7a2 2 0 0 1 2-2h4l2 2h8a2 2 0 0 1 2 2v8a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2z";
const FILE = "M7 3h7l5 5v13H7zM14 3v5h5";
const DOWN = "M12 4v11M7 10l5 5 5-5M5 20h14";
const AGAIN = "M20 11a8 8 0 1 0-2 6M20 5v6h-6";
const NEW = "M12 11v6M9 14h6M3 7a2 2 0 0 1 2-2h4l2 2h8a2 2 0 0 1 2 2v8a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2z";
const STOP = "M6 6l12 12M18 6L6 18";
const MOST_SHOWN = 100; // uploads in the list

let uploads: Uploads | null = null;
let view: View | null = null;
let folder = ""; // what is shown, or was last; "" is the user's home

/** Uploads go on while the panel is closed: what becomes of them is said then, too. */
function queue(context: Context): Uploads {
  const teller = new Teller();
  uploads ??= new Uploads(transport(context), (finished) => {
    view?.uploadsChanged(finished);
    const told = teller.take(uploads?.all ?? [], view !== null);
    if (told) context.say(told);
  });
  return uploads;
}

async function told(reply: Response): Promise<Answer> {
  if (reply.ok) return { kind: "", error: "" };
  try {
    const { kind, error } = (await reply.json()) as Partial<Answer>;
    return { kind: kind || "other", error: error || `status ${reply.status}` };
  } catch {
    return { kind: "other", error: `the server answered with status ${reply.status}` };
  }
}

async function ask(context: Context, path: string, init?: RequestInit): Promise<Answer> {
  try {
    return await told(await context.api(path, init));
  } catch {
    return LOST;
  }
}

function transport(context: Context): Transport {
  return {
    check: (path, size, overwrite) => ask(context, `files/check?path=${path}&size=${size}&overwrite=${Number(overwrite)}`, { method: "POST" }),
    folder: (path) => ask(context, `files/folder?path=${path}`, { method: "POST" }),
    put(path, file, overwrite, sent) {
      const request = new XMLHttpRequest(); // fetch does not say how far an upload has come
      const done = new Promise<Answer>((resolve) => {
        request.upload.addEventListener("progress", (event) => sent(event.loaded));
        request.addEventListener("load", () => void told(new Response(request.status === 204 ? null : request.responseText, { status: request.status })).then(resolve));
        for (const end of ["error", "abort", "timeout"]) request.addEventListener(end, () => resolve(LOST));
      });
      request.open("PUT", new URL(`files/content?path=${path}&overwrite=${Number(overwrite)}`, context.base));
      request.send(file);
      return { done, stop: () => request.abort() };
    },
  };
}

class View {
  private readonly crumbs = make("nav", { class: "crumbs", "aria-label": "Folder" });
  private readonly list = make("ul", { class: "entries" });
  private readonly note = make("p", { class: "files-note", role: "status" });
  private readonly free = make("span", { class: "files-free" });
  private readonly transfers = make("section", { class: "transfers", "aria-label": "Uploads" });
  private readonly files = make("input", { type: "file", multiple: true, hidden: true, "aria-label": "Files to upload" });
  private readonly folders = make("input", { type: "file", webkitdirectory: true, hidden: true, "aria-label": "Folder to upload" });
  private readonly rows = new Map<number, { row: HTMLElement; shown: string; bar: HTMLProgressElement }>();
  private readonly undo: (() => void)[] = [];
  private turn = 0;
  private heading = folder; // what is shown once the machine has answered
  private focusing = false; // whether the keys go there then
  private stale: ReturnType<typeof setTimeout> | undefined;
  private redraw = 0;
  private broken = false;

  constructor(
    private readonly body: HTMLElement,
    private readonly context: Context,
  ) {
    for (const input of [this.files, this.folders]) {
      input.addEventListener("change", () => {
        this.add(async () => chosen(input.files ?? []));
        input.value = "";
      });
    }
    const tools = make(
      "div",
      { class: "files-tools" },
      make("button", { type: "button", class: "small", click: () => this.files.click() }, "Upload files"),
      make("button", { type: "button", class: "small quiet", click: () => this.folders.click() }, "Upload folder"),
      iconButton("New folder", NEW, (event) => this.newFolder(event)),
      iconButton("Show again", AGAIN, () => void this.refresh()),
    );
    const hint = make("p", { class: "files-hint" }, make("span", { class: "drop-hint" }, "Or drop files and folders anywhere on this page. "), this.free);
    body.classList.add("files");
    body.append(tools, this.crumbs, this.note, this.list, hint, this.transfers, this.files, this.folders);
    this.undo.push(
      context.onState(() => {
        if (this.broken) void this.refresh(); // the machine may be back
      }),
    );
    void this.show(folder);
    this.drawUploads();
  }

  close(): void {
    clearTimeout(this.stale);
    cancelAnimationFrame(this.redraw);
    this.turn++;
    for (const undo of this.undo) undo();
    this.body.classList.remove("files");
  }

  /** Asks for the listing again; a folder that was opened a moment ago stays the one that opens. */
  private refresh(): Promise<void> {
    return this.show(this.heading, this.focusing);
  }

  private async show(path: string, focus = false): Promise<void> {
    const turn = ++this.turn;
    this.heading = path;
    this.focusing = focus;
    this.list.setAttribute("aria-busy", "true");
    let answer: Answer = LOST;
    let found: Listing | null = null;
    try {
      const reply = await this.context.api(`files?path=${path}`);
      if (reply.ok) found = (await reply.json()) as Listing;
      else answer = await told(reply);
    } catch {
      // LOST says it
    }
    if (turn !== this.turn) return;
    this.list.removeAttribute("aria-busy");
    this.broken = !found && (answer.kind === "paused" || answer.kind === "away" || answer.kind === "lost");
    this.focusing = false;
    if (!found) {
      if (path && answer.kind === "missing") return this.show(parent(path));
      this.heading = folder;
      this.note.textContent = sentence(answer.error);
      return;
    }
    this.heading = folder = found.path;
    this.note.textContent = found.more ? `Only the first ${found.entries.length.toLocaleString("en")} names are shown.` : found.entries.length ? "" : "This folder is empty.";
    this.free.textContent = found.free === null ? "" : `${bytes(found.free)} free.`;
    const mine = focusIsIn(this.body); // else somebody types elsewhere by now
    const crumbGone = exchange(this.crumbs, found.crumbs.map((crumb, at) => this.crumb(crumb, at === found.crumbs.length - 1)));
    this.crumbs.scrollLeft = this.crumbs.scrollWidth;
    const entryGone = exchange(this.list, found.entries.map((entry, at) => this.entry(entry, `entry-${at}`)));
    if ((focus && mine && !this.body.querySelector(".new-folder")) || crumbGone || entryGone) (this.list.querySelector("button") ?? this.crumbs.querySelector("button"))?.focus();
  }

  private crumb({ name, path }: { name: string; path: string }, last: boolean): HTMLElement {
    const button = make("button", { type: "button", class: "crumb", "data-key": path, click: (event) => again(event) || void this.show(path, true) }, name);
    if (last) button.setAttribute("aria-current", "page");
    return button;
  }

  /** @param id of what is told beside the button: it describes it, and is no part of what one says to press it (WCAG 2.5.3) */
  private entry(entry: Entry, id: string): HTMLElement {
    const what = entry.link ? "link" : entry.kind;
    const name = make("span", { class: "entry-name", title: entry.name }, entry.name);
    const about = entry.kind === "file" ? `${bytes(entry.size)}${entry.time ? ` · ${when(entry.time, new Date())}` : ""}` : entry.kind === "other" ? "special" : "";
    const row = make("li", { class: "entry", "data-kind": entry.kind, "data-key": entry.path });
    const open = (event: Event): void => {
      if (again(event)) return;
      if (entry.kind === "folder") void this.show(entry.path, true);
      else void this.take(entry);
    };
    const label = `${entry.kind === "folder" ? "Open" : "Download"} ${entry.name} (${what})`;
    const main = make("button", { type: "button", class: "entry-open", "aria-label": label, click: open }, icon(entry.kind === "folder" ? FOLDER : FILE), name);
    main.disabled = entry.kind === "other";
    row.append(main);
    if (about) {
      row.append(make("span", { class: "entry-about", id }, about));
      main.setAttribute("aria-describedby", id);
    }
    if (entry.kind === "folder") row.append(iconButton(`Download ${entry.name} as tar`, DOWN, () => void this.take(entry)));
    return row;
  }

  /** Asks whether it can be had, and lets the browser save it: that shows the progress and can stop it. */
  private async take(entry: Entry): Promise<void> {
    const address = `files/${entry.kind === "folder" ? "archive" : "content"}?path=${entry.path}`;
    const answer = await ask(this.context, `${address}&check=1`);
    if (answer.kind) {
      this.context.say(`${entry.name}: ${answer.error}`);
      return;
    }
    make("a", { href: new URL(address, this.context.base).href, download: true }).click();
  }

  private newFolder(asked: Event): void {
    const open = this.body.querySelector<HTMLInputElement>(".new-folder input");
    if (open) return open.focus(); // with what has been typed there
    const button = asked.target instanceof Element ? asked.target.closest("button") : null;
    let busy = false;
    const end = () => {
      const back = focusIsIn(form);
      form.remove();
      if (back) button?.focus();
    };
    const field = make("input", { type: "text", "aria-label": "Name of the new folder", maxlength: "255", autocomplete: "off", spellcheck: "false" });
    const form = make("form", { class: "new-folder" }, field, make("button", { type: "submit", class: "small" }, "Make"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (busy) return;
      busy = true;
      void this.makeFolder(field.value).then((made) => {
        busy = false;
        if (made) end();
      });
    });
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault();
      end();
    });
    this.crumbs.after(form);
    field.focus();
  }

  /** Makes one in the folder that is shown, or opens just now. Returns whether it is there. */
  private async makeFolder(name: string): Promise<boolean> {
    const where = this.heading || folder;
    const path = below(where, [name]);
    if (!name) return false;
    if (!where) this.context.say("The machine does not say where to put it yet.");
    else if (path === null) this.context.say(`${name}: its name cannot be written`);
    if (!where || path === null) return false;
    const answer = await ask(this.context, `files/folder?path=${path}`, { method: "POST" });
    if (answer.kind) this.context.say(`${name}: ${answer.error}`);
    else await this.refresh();
    return !answer.kind;
  }

  /** Takes what was dropped or chosen into the folder that is shown. */
  add(find: () => Promise<Parameters<Uploads["add"]>[1]>): void {
    void (async () => {
      try {
        const shown = folder; // another may be by the time all is found
        const found = await find();
        if (!folder) await this.show(folder);
        if (folder) await queue(this.context).add(shown || folder, found);
        else this.context.say("The machine does not say where to put it yet.");
      } catch (error) {
        this.context.say(error instanceof Error ? error.message : String(error));
      }
    })();
  }

  uploadsChanged(finished: boolean): void {
    if (finished) {
      clearTimeout(this.stale);
      this.stale = setTimeout(() => void this.refresh(), 300);
    }
    if (!this.redraw) this.redraw = requestAnimationFrame(() => this.drawUploads());
  }

  private drawUploads(): void {
    this.redraw = 0;
    const all = uploads?.all ?? [];
    this.transfers.hidden = !all.length;
    if (!all.length) {
      this.rows.clear();
      this.transfers.replaceChildren();
      return;
    }
    const busy = uploads?.busy ?? false;
    const done = all.filter(({ status }) => status === "done").length;
    let head = this.transfers.querySelector<HTMLElement>(".transfers-head");
    if (!head) {
      head = make("div", { class: "transfers-head" }, make("h3", {}), make("button", { type: "button", class: "small quiet", click: () => (uploads?.busy ? uploads.stopAll() : uploads?.tidy()) }));
      this.transfers.append(head, make("ul", { class: "uploads" }));
    }
    const [title, button] = head.children;
    if (title) title.textContent = busy ? `Uploading ${done} of ${all.length} · ${Math.floor(share(all) * 100)} %` : `${done} of ${all.length} uploaded`;
    if (button) button.textContent = busy ? "Stop all" : "Clear";
    const urgent = [...all].sort((a, b) => rank(a) - rank(b)).slice(0, MOST_SHOWN);
    const rows = urgent.map((upload) => this.uploadRow(upload));
    const list = this.transfers.querySelector("ul");
    if (list && (list.children.length !== rows.length || rows.some((row, at) => list.children[at] !== row))) {
      const focused = document.activeElement;
      list.replaceChildren(...rows);
      if (focused instanceof HTMLElement && list.contains(focused)) focused.focus();
    }
  }

  private uploadRow(upload: Upload): HTMLElement {
    const state = `${upload.status} ${upload.error}`;
    const known = this.rows.get(upload.id);
    if (known?.shown === state) {
      known.bar.value = upload.sent;
      return known.row;
    }
    const bar = make("progress", { max: String(upload.file.size || 1), "aria-label": `Upload of ${upload.name}` });
    bar.value = upload.status === "done" ? upload.file.size || 1 : upload.sent;
    const row = make("li", { class: "upload", "data-status": upload.status }, make("span", { class: "upload-name", title: upload.name }, upload.name));
    const button = (label: string, click: () => void, quiet = true) => make("button", { type: "button", class: quiet ? "small quiet" : "small", click }, label);
    const answer = (overwrite: boolean, forAll: boolean) => () => uploads?.answer(upload.id, overwrite, forAll);
    if (upload.status === "asking") {
      row.append(
        make("span", { class: "upload-about", role: "alert" }, "There is a file of this name."),
        make("span", { class: "upload-answers" }, button("Replace", answer(true, false), false), button("Skip", answer(false, false)), button("Replace all", answer(true, true)), button("Skip all", answer(false, true))),
      );
    } else if (upload.status === "failed") {
      row.append(make("span", { class: "upload-about", role: "alert" }, sentence(upload.error)));
      if (upload.path) row.append(make("span", { class: "upload-answers" }, button("Try again", () => uploads?.retry(upload.id))));
    } else if (upload.status === "running" || upload.status === "waiting") {
      row.append(bar, iconButton(`Stop ${upload.name}`, STOP, () => uploads?.stop(upload.id)));
    } else {
      row.append(make("span", { class: "upload-about" }, upload.status === "done" ? bytes(upload.file.size) : "stopped"));
    }
    this.rows.set(upload.id, { row, shown: state, bar });
    return row;
  }
}

const RANKS = { asking: 0, failed: 1, running: 2, waiting: 3, stopped: 4, done: 5 } as const;

function rank(upload: Upload): number {
  return RANKS[upload.status];
}

/** The second click of a double click: what it meets may have come in between. */
function again(event: Event): boolean {
  return event instanceof UIEvent && event.detail > 1;
}

function sentence(text: string): string {
  return text ? `${text[0]?.toUpperCase() ?? ""}${text.slice(1)}.` : "";
}

/** Uploads end with the page: the browser asks before it goes. */
function askBeforeLeaving(): void {
  window.addEventListener("beforeunload", (event) => {
    if (uploads?.busy) event.preventDefault();
  });
}

/** A file that is dropped beside the panel would take the place of the page; it is uploaded instead. */
function takeDrops(): void {
  const carries = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
  let depth = 0;
  const mark = (change: number) => {
    depth = change ? Math.max(0, depth + change) : 0;
    document.body.classList.toggle("dropping", depth > 0);
  };
  window.addEventListener("dragenter", (event) => carries(event) && mark(1));
  window.addEventListener("dragleave", (event) => carries(event) && mark(-1));
  window.addEventListener("dragover", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    if (event.dataTransfer) event.dataTransfer.dropEffect = "copy";
  });
  window.addEventListener("drop", (event) => {
    mark(0);
    if (!carries(event) || !event.dataTransfer) return;
    event.preventDefault();
    const found = dropped(event.dataTransfer.items);
    found.catch(() => {}); // said where it is awaited
    const button = document.querySelector<HTMLButtonElement>('[data-panel="files"]');
    if (!view && button && !button.hidden) button.click();
    view?.add(() => found);
  });
}

if (typeof window !== "undefined") {
  takeDrops();
  askBeforeLeaving();
}

export const panel: Panel = {
  id: "files",
  label: "Files",
  icon: FOLDER,
  roles: ["owner", "editor"],
  open(body, context) {
    const opened = new View(body, context);
    view = opened;
    return () => {
      opened.close();
      if (view === opened) view = null;
    };
  },
};
