/** Plays a recording in an emulator of its own, over the page: play, pause, seek, speed, pauses skipped. */

import { FitAddon } from "@xterm/addon-fit";
import { Terminal } from "@xterm/xterm";
import { iconButton, make } from "../dom";
import { useShellWidths } from "../input/widths";
import type { Context } from "../panels";
import { LEAST_CONTRAST, THEMES, type ThemeName } from "../settings/themes";
import { CastReader, sizeOf } from "./cast";
import { clock, Playhead, Reel, SPEEDS } from "./playback";

const PLAY = "M8 5.5l10 6.5l-10 6.5z";
const PAUSE = "M8.5 5.5v13M15.5 5.5v13";
const CLOSE = "M6 6l12 12M18 6L6 18";
/** Seconds that a pause takes at most while pauses are skipped. */
const SHORT = 2;
/** Seconds of a step by an arrow key. */
const STEP = 5;
/** Seconds for which a marker's words are shown. */
const TOLD = 4;
/** Characters given to the emulator at once: what a seek waits for. */
const SLICE = 128 * 1024;
const [LEAST_FONT, MOST_FONT] = [3, 16];

export class Player {
  private readonly reel = new Reel(SHORT);
  private readonly head = new Playhead(() => performance.now());
  private readonly terminal: Terminal;
  private readonly fitter = new FitAddon();
  private readonly abort = new AbortController();
  private readonly dialog: HTMLDialogElement;
  private readonly screen = make("div", { class: "player-screen" });
  private readonly toggle = iconButton("Play", PLAY, () => this.playOrPause());
  private readonly seek = make("input", { type: "range", class: "player-seek", min: "0", max: "0", step: "0.01", value: "0", "aria-label": "Position", input: () => this.to(Number(this.seek.value)) });
  private readonly time = make("span", { class: "player-time" }, "0:00");
  private readonly speed: HTMLSelectElement;
  private readonly note = make("p", { class: "player-note", role: "status" });
  /** The screen's size in the beginning, and now. */
  private first = { cols: 80, rows: 24 };
  private size = this.first;
  /** Events that the emulator has; -1 when it must begin anew. */
  private fed = -1;
  private feeding = false;
  private loading = true;
  private fault = "";
  private ticking = 0;

  constructor(context: Context, id: string, name: string) {
    this.terminal = new Terminal({
      allowProposedApi: true,
      cursorInactiveStyle: "block",
      disableStdin: true,
      linkHandler: { activate: () => undefined }, // what a recording shows is not to be followed
      scrollback: 2000,
    });
    this.speed = make("select", { "aria-label": "Speed", change: () => this.head.setSpeed(Number(this.speed.value)) },
      ...SPEEDS.map((each) => make("option", { value: String(each), ...(each === 1 ? { selected: true } : {}) }, `${each}×`)));
    const skip = make("input", { type: "checkbox", checked: true, change: () => this.skipPauses(skip.checked) });
    const title = make("h2", { id: "player-title" }, name);
    this.dialog = make("dialog", { class: "player", "aria-labelledby": title.id, close: () => this.closed(), keydown: (event) => this.key(event as KeyboardEvent) },
      make("div", { class: "player-top" }, title, iconButton("Close", CLOSE, () => this.dialog.close())),
      make("div", { class: "player-stage" }, this.screen),
      make("div", { class: "player-controls" }, this.toggle, this.time, this.seek, this.speed, make("label", { class: "player-skip" }, skip, "Skip pauses")),
      this.note);
    document.body.append(this.dialog);
    this.dialog.showModal();
    this.openTerminal();
    this.toggle.focus();
    void this.load(context, id);
    this.head.play();
    this.tick();
    Object.assign(window, { dozlabPlayerText: () => this.text() }); // for browser tests
  }

  private openTerminal(): void {
    const theme = (document.documentElement.dataset["theme"] ?? "dark") as ThemeName;
    const { options } = this.terminal;
    options.theme = THEMES[theme];
    options.minimumContrastRatio = LEAST_CONTRAST[theme];
    options.fontFamily = getComputedStyle(document.documentElement).getPropertyValue("--mono");
    this.terminal.loadAddon(this.fitter);
    useShellWidths(this.terminal);
    this.terminal.attachCustomKeyEventHandler(() => false); // the dialog's keys, Tab among them
    this.terminal.parser.registerOscHandler(52, () => true);
    this.terminal.open(this.screen);
    if (this.terminal.textarea) this.terminal.textarea.tabIndex = -1;
    new ResizeObserver(() => this.fit()).observe(this.screen);
  }

  /** As large as the box allows with all of the recorded screen in it. */
  private fit(): void {
    const { cols, rows } = this.size;
    const { options } = this.terminal;
    const fits = (): number => {
      const room = this.fitter.proposeDimensions();
      return room ? Math.min(room.cols / cols, room.rows / rows) : 1;
    };
    options.fontSize = MOST_FONT;
    let font = Math.min(MOST_FONT, Math.max(LEAST_FONT, Math.floor(MOST_FONT * fits() * 4) / 4));
    options.fontSize = font;
    while (font > LEAST_FONT && fits() < 1) options.fontSize = font -= 0.25;
    this.terminal.resize(cols, rows);
  }

  private async load(context: Context, id: string): Promise<void> {
    try {
      const reply = await context.api(`recordings/${id}`, { signal: this.abort.signal });
      if (!reply.ok || !reply.body) throw new Error(reply.status === 404 ? "This recording has made room for newer ones." : `The server answered with status ${reply.status}.`);
      const reader = new CastReader();
      const pieces = reply.body.getReader();
      const text = new TextDecoder();
      for (let piece = await pieces.read(); !piece.done; piece = await pieces.read()) {
        const events = reader.push(text.decode(piece.value, { stream: true }));
        if (reader.header && this.fed < 0 && this.reel.events.length === 0) this.begin(reader.header);
        this.reel.add(events);
      }
    } catch (error) {
      if (!this.abort.signal.aborted) this.fault = error instanceof Error ? error.message : "The recording could not be loaded.";
    }
    this.loading = false;
  }

  private begin(size: { cols: number; rows: number }): void {
    this.first = { cols: size.cols, rows: size.rows };
    this.size = this.first;
    this.fed = 0;
    this.fit();
  }

  // --- playing

  private tick(): void {
    this.head.stopAt(this.reel.length, this.loading);
    if (!this.feeding && this.fed >= 0) void this.feed();
    this.show();
    this.ticking = requestAnimationFrame(() => this.tick());
  }

  /** Brings the emulator to where the playhead is, in slices, so that a seek meanwhile is followed at once. */
  private async feed(): Promise<void> {
    this.feeding = true;
    for (let wanted = this.wanted(); wanted !== this.fed && !this.abort.signal.aborted; wanted = this.wanted()) {
      if (wanted < this.fed) {
        this.terminal.reset();
        this.size = this.first;
        this.fit();
        this.fed = 0;
        continue;
      }
      let text = "";
      while (this.fed < wanted && text.length < SLICE) {
        const event = this.reel.events[this.fed];
        if (event?.code === "r") {
          if (text) break; // what was printed on the former size first
          this.size = sizeOf(event.data) ?? this.size;
          this.fit();
        }
        if (event?.code === "o") text += event.data;
        this.fed += 1;
      }
      if (text) await new Promise<void>((done) => this.terminal.write(text, done));
    }
    this.feeding = false;
  }

  private wanted(): number {
    return this.reel.count(this.head.position);
  }

  private playOrPause(): void {
    if (this.head.playing) return this.head.pause();
    if (this.head.position >= this.reel.length && !this.loading) this.head.seek(0);
    this.head.play();
  }

  private to(position: number): void {
    this.head.seek(Math.min(position, this.reel.length));
  }

  private skipPauses(skip: boolean): void {
    this.head.seek(this.reel.setIdle(skip ? SHORT : Infinity, this.head.position));
  }

  private key(event: KeyboardEvent): void {
    const target = event.target as HTMLElement;
    if (event.ctrlKey || event.altKey || event.metaKey || target instanceof HTMLSelectElement) return;
    const act: Record<string, () => void> = {
      ArrowLeft: () => this.to(this.head.position - STEP),
      ArrowRight: () => this.to(this.head.position + STEP),
      ArrowUp: () => this.head.change(1),
      ArrowDown: () => this.head.change(-1),
      Home: () => this.to(0),
      End: () => this.to(this.reel.length),
    };
    if (!(target instanceof HTMLButtonElement) && !(target instanceof HTMLInputElement && target.type === "checkbox")) act[" "] = () => this.playOrPause();
    const chosen = act[event.key];
    if (!chosen) return;
    event.preventDefault();
    chosen();
  }

  // --- what is shown

  private show(): void {
    const { length } = this.reel;
    const position = Math.min(this.head.position, length);
    const set = (name: "max" | "value", value: string): void => {
      if (this.seek[name] !== value) this.seek[name] = value;
    };
    set("max", length.toFixed(2));
    set("value", position.toFixed(2));
    const words = `${clock(position)} / ${clock(length)}`;
    if (this.time.textContent !== words) {
      this.time.textContent = words;
      this.seek.setAttribute("aria-valuetext", `${clock(position)} of ${clock(length)}`);
    }
    if (this.speed.value !== String(this.head.speed)) this.speed.value = String(this.head.speed);
    const told = this.fault || this.reel.told(position, TOLD);
    if (this.note.textContent !== told) this.note.textContent = told;
    const label = this.head.playing ? "Pause" : "Play";
    if (this.toggle.title !== label) {
      this.toggle.title = label;
      this.toggle.setAttribute("aria-label", label);
      this.toggle.querySelector("path")?.setAttribute("d", this.head.playing ? PAUSE : PLAY);
    }
  }

  private text(): string {
    const buffer = this.terminal.buffer.active;
    return Array.from({ length: this.terminal.rows }, (_, row) => buffer.getLine(buffer.viewportY + row)?.translateToString(true) ?? "").join("\n");
  }

  private closed(): void {
    this.abort.abort();
    cancelAnimationFrame(this.ticking);
    this.terminal.dispose();
    this.dialog.remove();
  }
}
