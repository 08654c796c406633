/** The emulator: xterm.js with its addons, colours and size. Knows nothing of the connection. */

import { FitAddon } from "@xterm/addon-fit";
import type { SearchAddon } from "@xterm/addon-search";
import { WebLinksAddon } from "@xterm/addon-web-links";
import { WebglAddon } from "@xterm/addon-webgl";
import { Terminal } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";
import { isWebLink } from "./input/links";
import { read, type Wish } from "./input/osc52";
import { clean, needsAsking } from "./input/paste";
import { Swipe } from "./input/touch";
import { useGraphemes, useShellWidths } from "./input/widths";
import type { Settings } from "./settings/settings";
import { LEAST_CONTRAST, THEMES, type ThemeName } from "./settings/themes";

const LEAST_FONT = 3;

/** What the screen asks of the page. */
export interface ScreenHooks {
  /** A paste of several lines: calls `go` with what to type, if the user wants that. */
  askPaste(text: string, go: (text: string) => void): void;
  /** Something was selected with the mouse, and is to be copied. */
  copySelected(text: string): void;
  /** A program asks for its text in the clipboard. */
  programCopies(wish: Wish): void;
}

function openLink(uri: string): void {
  if (isWebLink(uri)) window.open(uri, "_blank", "noopener,noreferrer");
}

export class Screen {
  readonly terminal: Terminal;
  private readonly fitter = new FitAddon();
  private settings: Settings | null = null;
  private finder: Promise<SearchAddon> | null = null;
  /** Whether this page answers the queries of programs: exactly one page of a shell does. */
  lead = true;
  /** Whether the shell has this page's size. */
  sizes = true;
  /** The shell's size while another page leads. */
  private followed = { cols: 80, rows: 24 };

  constructor(
    private readonly element: HTMLElement,
    private readonly hooks: ScreenHooks,
  ) {
    this.terminal = new Terminal({
      allowProposedApi: true, // unicode versions, decorations of the search
      cursorInactiveStyle: "outline",
      linkHandler: { activate: (_event, uri) => openLink(uri) },
      scrollback: 10000,
    });
    this.terminal.loadAddon(this.fitter);
    useShellWidths(this.terminal);
    this.terminal.loadAddon(new WebLinksAddon((_event, uri) => openLink(uri)));
    this.muteWhenNotLeading();
    this.terminal.parser.registerOscHandler(52, (payload) => {
      if (this.lead) this.hooks.programCopies(read(payload));
      return true;
    });
    this.terminal.open(element);
    this.accelerate();
    element.addEventListener("keydown", (event) => {
      // In screen reader mode xterm.js lets Tab both reach the program and move the focus: what follows would press buttons.
      if (event.key === "Tab" && event.target === this.terminal.textarea) event.preventDefault();
    });
    element.addEventListener("paste", (event) => this.pasted(event), true);
    element.addEventListener("mousedown", () => window.addEventListener("mouseup", () => this.selected(), { once: true }));
    this.followFinger();
    new ResizeObserver(() => this.fit()).observe(element);
    void document.fonts.ready.then(() => this.fit());
  }

  /** Takes settings and theme; again after each change. */
  use(settings: Settings, theme: ThemeName): void {
    this.settings = settings;
    const { options } = this.terminal;
    const own = getComputedStyle(document.documentElement).getPropertyValue("--mono");
    options.theme = THEMES[theme];
    options.minimumContrastRatio = LEAST_CONTRAST[theme];
    options.fontFamily = settings.fontFamily ? `${settings.fontFamily}, ${own}` : own;
    options.lineHeight = settings.lineHeight;
    options.cursorStyle = settings.cursorStyle;
    options.cursorBlink = settings.cursorBlink;
    options.screenReaderMode = settings.screenReader;
    options.macOptionIsMeta = settings.optionIsMeta;
    if (settings.widths === "graphemes") void useGraphemes(this.terminal, () => this.settings?.widths === "graphemes");
    else useShellWidths(this.terminal);
    this.fit();
  }

  /** Fills the pane; while another page sets the size, with a font so small that all of the shell's screen is seen. */
  fit(): void {
    const most = this.settings?.fontSize ?? 14;
    if (this.element.clientWidth === 0) return; // its tab is not shown
    if (this.sizes) {
      this.terminal.options.fontSize = most;
      this.fitter.fit();
      return;
    }
    const { cols, rows } = this.followed;
    this.terminal.options.fontSize = most;
    const fits = (): number => {
      const room = this.fitter.proposeDimensions();
      return room ? Math.min(room.cols / cols, room.rows / rows) : 1;
    };
    let size = Math.max(LEAST_FONT, Math.floor(most * Math.min(1, fits()) * 4) / 4);
    this.terminal.options.fontSize = size;
    while (size > LEAST_FONT && fits() < 1) this.terminal.options.fontSize = size -= 0.25;
    this.terminal.resize(cols, rows);
  }

  /** The visible lines, as text. */
  text(): string {
    const buffer = this.terminal.buffer.active;
    const line = (_: unknown, row: number): string => buffer.getLine(buffer.viewportY + row)?.translateToString(true) ?? "";
    return Array.from({ length: this.terminal.rows }, line).join("\n");
  }

  /** All that makes the picture: content with its colours, cursor, modes, size. Equal for equal screens. */
  async state(): Promise<object> {
    const { SerializeAddon } = await import("@xterm/addon-serialize");
    const addon = new SerializeAddon();
    this.terminal.loadAddon(addon);
    const { cols, rows, modes, buffer } = this.terminal;
    const { cursorX, cursorY, type } = buffer.active;
    const content = addon.serialize({ scrollback: 0 });
    addon.dispose();
    return { cols, rows, cursor: [cursorX, cursorY], buffer: type, modes: { ...modes }, content };
  }

  /** The search, loaded when it is first used. */
  search(): Promise<SearchAddon> {
    this.finder ??= import("@xterm/addon-search").then(({ SearchAddon }) => {
      const addon = new SearchAddon({ highlightLimit: 2000 });
      this.terminal.loadAddon(addon);
      return addon;
    });
    return this.finder;
  }

  /** The size this page would have. */
  wanted(): { cols: number; rows: number } {
    const size = this.terminal.options.fontSize;
    this.terminal.options.fontSize = this.settings?.fontSize ?? 14;
    const room = this.element.clientWidth > 0 ? this.fitter.proposeDimensions() : undefined;
    if (size !== undefined) this.terminal.options.fontSize = size;
    const clamp = (value: number | undefined, least: number, fallback: number): number => Math.min(1000, Math.max(least, value || fallback));
    return { cols: clamp(room?.cols, 2, this.terminal.cols), rows: clamp(room?.rows, 1, this.terminal.rows) };
  }

  /** Takes what the server says on who leads and how large the shell's screen is. */
  follow(lead: boolean, sizes: boolean, cols: number, rows: number): void {
    this.lead = lead;
    this.sizes = sizes;
    this.followed = { cols, rows };
    this.fit();
  }

  /** Types text as a paste, with the program told so where it wants that; asks first where its lines would be run. */
  paste(text: string): void {
    if (!text) return;
    const type = (wanted: string): void => this.terminal.paste(clean(wanted));
    if (needsAsking(text, this.settings?.pasteGuard ?? true, this.terminal.modes.bracketedPasteMode)) this.hooks.askPaste(text, type);
    else type(text);
  }

  dispose(): void {
    this.terminal.dispose();
  }

  private pasted(event: ClipboardEvent): void {
    event.preventDefault();
    event.stopPropagation();
    this.paste(event.clipboardData?.getData("text/plain") ?? "");
  }

  /** xterm.js 6.0 does not scroll by touch (xtermjs/xterm.js#5489). */
  private followFinger(): void {
    let swipe: Swipe | null = null;
    let gliding = 0;
    this.element.addEventListener("touchstart", (event) => {
      cancelAnimationFrame(gliding);
      const [finger] = event.touches;
      const cell = (this.element.querySelector(".xterm-screen")?.clientHeight ?? 0) / this.terminal.rows;
      swipe = finger && event.touches.length === 1 && cell > 0 ? new Swipe(finger.clientY, event.timeStamp, cell) : null;
    }, { passive: true });
    this.element.addEventListener("touchmove", (event) => {
      const [finger] = event.touches;
      if (!swipe || !finger) return;
      this.scroll(swipe.move(finger.clientY, event.timeStamp), finger);
      if (swipe.moved && event.cancelable) event.preventDefault(); // no click when it is lifted
    }, { passive: false });
    const lifted = (event: TouchEvent): void => {
      const lets = swipe;
      swipe = null;
      lets?.lift(event.timeStamp);
      if (!lets || !this.scrollsBack || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
      const go = (now: number): void => {
        const lines = lets.glide(now);
        if (lines === null) return;
        this.scroll(lines);
        gliding = requestAnimationFrame(go);
      };
      gliding = requestAnimationFrame(go);
    };
    for (const end of ["touchend", "touchcancel"] as const) this.element.addEventListener(end, lifted);
    this.terminal.onData(() => cancelAnimationFrame(gliding)); // what is typed is to be seen
  }

  /** Whether scrolling shows older output; else the program scrolls, by arrow keys or reports of the mouse. */
  private get scrollsBack(): boolean {
    return this.terminal.buffer.active.type === "normal" && this.terminal.modes.mouseTrackingMode === "none";
  }

  private scroll(lines: number, at?: Touch): void {
    if (!lines) return;
    if (this.scrollsBack) return this.terminal.scrollLines(lines);
    const turn = { deltaY: Math.sign(lines), deltaMode: WheelEvent.DOM_DELTA_LINE, clientX: at?.clientX ?? 0, clientY: at?.clientY ?? 0, bubbles: true, cancelable: true };
    for (let line = 0; line < Math.abs(lines); line += 1) this.element.querySelector(".xterm-screen")?.dispatchEvent(new WheelEvent("wheel", turn));
  }

  private selected(): void {
    const text = this.terminal.getSelection();
    if (text && this.settings?.copyOnSelect) this.hooks.copySelected(text);
  }

  private accelerate(): void {
    try {
      const webgl = new WebglAddon();
      webgl.onContextLoss(() => webgl.dispose()); // xterm.js goes on with the DOM renderer
      this.terminal.loadAddon(webgl);
    } catch {
      return; // no WebGL2 here: the DOM renderer it is
    }
  }

  /** Swallows queries (DA, DSR, DECRQM, DECRQSS, OSC colours) while another page is the one to answer. */
  private muteWhenNotLeading(): void {
    const parser = this.terminal.parser;
    const mute = (): boolean => !this.lead;
    for (const id of [{ final: "c" }, { prefix: ">", final: "c" }, { prefix: "=", final: "c" }, { final: "n" }, { prefix: "?", final: "n" },
      { intermediates: "$", final: "p" }, { prefix: "?", intermediates: "$", final: "p" }]) parser.registerCsiHandler(id, mute);
    parser.registerDcsHandler({ intermediates: "$", final: "q" }, mute);
    for (const code of [4, 10, 11, 12]) parser.registerOscHandler(code, (data) => !this.lead && data.includes("?"));
  }
}
