/** The emulator: xterm.js with its addons, theme, keys and size. Knows nothing of the connection. */

import { FitAddon } from "@xterm/addon-fit";
import { Unicode11Addon } from "@xterm/addon-unicode11";
import { WebLinksAddon } from "@xterm/addon-web-links";
import { WebglAddon } from "@xterm/addon-webgl";
import { Terminal } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";

const THEME = {
  background: "#0d1117", foreground: "#d5dde6", cursor: "#6ee7c7", cursorAccent: "#0d1117", selectionBackground: "#2f5f57aa",
  black: "#1b232d", red: "#f08a8a", green: "#8fd694", yellow: "#e9b872", blue: "#7fb2f0", magenta: "#c9a0ec", cyan: "#6fd3d6", white: "#cdd6df",
  brightBlack: "#647285", brightRed: "#ffa8a3", brightGreen: "#b0e8a9", brightYellow: "#f7d39b", brightBlue: "#a8cdfa", brightMagenta: "#ddc0f7", brightCyan: "#9be8e6", brightWhite: "#f4f8fb",
};

function openLink(uri: string): void {
  if (/^https?:\/\//i.test(uri)) window.open(uri, "_blank", "noopener,noreferrer");
}

export class Screen {
  readonly terminal: Terminal;
  private readonly fitter = new FitAddon();
  /** Whether this page answers the queries of programs: exactly one page of a shell does. */
  lead = true;

  constructor(element: HTMLElement) {
    this.terminal = new Terminal({
      allowProposedApi: true, // unicode versions
      cursorBlink: true,
      cursorInactiveStyle: "outline",
      fontFamily: getComputedStyle(document.documentElement).getPropertyValue("--mono"),
      fontSize: 14,
      lineHeight: 1.2,
      linkHandler: { activate: (_event, uri) => openLink(uri) },
      macOptionIsMeta: true,
      scrollback: 10000,
      theme: THEME,
    });
    this.terminal.loadAddon(this.fitter);
    this.terminal.loadAddon(new Unicode11Addon());
    this.terminal.unicode.activeVersion = "11";
    this.terminal.loadAddon(new WebLinksAddon((_event, uri) => openLink(uri)));
    this.muteWhenNotLeading();
    this.terminal.attachCustomKeyEventHandler((event) => this.key(event));
    this.terminal.open(element);
    this.accelerate();
    new ResizeObserver(() => this.fit()).observe(element);
    void document.fonts.ready.then(() => this.fit());
    this.fit();
  }

  /** Fills the page, when this page sets the size. */
  fit(): void {
    if (this.lead) this.fitter.fit();
  }

  /** The size this page would have. */
  wanted(): { cols: number; rows: number } {
    const size = this.fitter.proposeDimensions();
    const clamp = (value: number | undefined, least: number): number => Math.min(1000, Math.max(least, value || least));
    return { cols: clamp(size?.cols, 2), rows: clamp(size?.rows, 1) };
  }

  /** Takes what the server says on who leads and how large the shell's screen is. */
  follow(lead: boolean, cols: number, rows: number): void {
    this.lead = lead;
    if (lead) this.fit();
    else this.terminal.resize(cols, rows);
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

  private key(event: KeyboardEvent): boolean {
    if (event.type === "keydown" && event.ctrlKey && event.shiftKey && event.code === "KeyC") {
      event.preventDefault(); // the browser's own would open the inspector
      const selection = this.terminal.getSelection();
      if (selection) void navigator.clipboard?.writeText(selection).catch(() => document.execCommand("copy"));
      return false;
    }
    return !(event.ctrlKey && event.shiftKey && event.code === "KeyV"); // the browser pastes
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
