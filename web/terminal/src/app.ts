/** The terminal page as a whole: tabs and panes, the header that tells of the active one, side panels, keys. */

import { byId, focusIsIn, make } from "./dom";
import { actionOf, type Action } from "./frame/chords";
import { askToClose, askToPaste, showKeys } from "./frame/dialogs";
import { Drawer } from "./frame/drawer";
import { KeyRow } from "./frame/keyrow";
import * as layouts from "./frame/layout";
import { Menu } from "./frame/menu";
import { SearchBar } from "./frame/search";
import { Splits } from "./frame/splits";
import { Tabs } from "./frame/tabs";
import { copy } from "./input/clipboard";
import type { Wish } from "./input/osc52";
import { Pane, type PaneEvents } from "./pane";
import type { Context, Panel } from "./panels";
import * as protocol from "./protocol";
import { showRecording } from "./recordings/indicator";
import { settingsPanel } from "./settings/panel";
import { LiveSettings } from "./settings/settings";
import { watchTheme, type ThemeName } from "./settings/themes";
import { fetchTimeline, WaitingView } from "./waiting";
import "./frame/frame.css";

const SAID_FOR = 5000;
const SETTINGS = "dozlab.settings";

/** xterm.js makes style elements; the policy admits those that carry this answer's nonce. */
function giveStylesTheNonce(): void {
  const nonce = document.documentElement.dataset["nonce"] ?? "";
  const create = document.createElement.bind(document);
  document.createElement = ((tag: string, options?: ElementCreationOptions) => {
    const made = create(tag, options);
    if (tag.toLowerCase() === "style") made.nonce = nonce;
    return made;
  }) as typeof document.createElement;
}

/** xterm.js without WebGL colours its spans by style attributes, which the policy forbids; CSSOM may do the same. */
function styleSpansByScript(): void {
  HTMLSpanElement.prototype.setAttribute = function (name: string, value: string): void {
    if (name === "style") this.style.cssText = value;
    else Element.prototype.setAttribute.call(this, name, value);
  };
}

/** A store of the browser: of this page and its reloads, or of all pages; null where it is forbidden. */
function store(name: "sessionStorage" | "localStorage"): Storage | null {
  try {
    return window[name];
  } catch {
    return null;
  }
}

/** One leg or two: page to server, and server to guest where that is known. */
function latencyInWords(server: number | null, guest: number | null): string {
  if (server === null) return "";
  const legs = [server, ...(guest === null ? [] : [guest])];
  return `${legs.map((leg) => (leg < 1 ? "<1" : String(Math.round(leg)))).join(" + ")} ms`;
}

class App {
  private readonly session = byId("session").textContent ?? "";
  private readonly base = new URL("./", location.href);
  private readonly settings = new LiveSettings(store("localStorage"), SETTINGS);
  /** The page's own comes first: another page of this browser may have other tabs and names. */
  private readonly stores = [store("sessionStorage"), store("localStorage")] as const;
  private readonly layoutKey = `dozlab.layout.${this.session}`;
  private readonly waiting = new WaitingView(byId("waiting"), byId("stages"));
  private readonly listeners = new Set<(state: protocol.State) => void>();
  private readonly panes = new Map<string, Pane>();
  private readonly tabs: Tabs;
  private readonly splits: Splits;
  private readonly menu: Menu;
  private readonly search: SearchBar;
  private readonly keyRow: KeyRow;
  private layout: layouts.Layout;
  private theme: ThemeName = "dark";
  private told: protocol.State | null = null;
  private most = Infinity;
  /** As the newest STATE says it; a tab that has just been opened has none yet. */
  private role: protocol.Role = "viewer";
  private saidTimer: number | undefined;
  /** Counts what is closed here: what the server tells may be older. */
  private closings = 0;
  private readonly ending = new Set<string>();

  constructor(panels: readonly Panel[]) {
    const stored = layouts.parse(this.stores.map((each) => each?.getItem(this.layoutKey)).find(Boolean) ?? null);
    this.layout = stored ?? layouts.single(layouts.FIRST_SHELL);
    const back = (): void => this.active.focus();
    this.tabs = new Tabs(byId("tabs"), (shell) => this.panes.get(shell)?.title ?? "", {
      select: (id) => this.apply(layouts.selectTab(this.layout, id)),
      close: (id) => void this.closeTab(id),
      rename: (id, name) => this.apply(layouts.renameTab(this.layout, id, name)),
      move: (id, to) => this.apply(layouts.moveTab(this.layout, id, to)),
      left: back,
    });
    this.splits = new Splits(byId("panes"), (tab, path, ratio) => this.apply(layouts.setRatio(this.layout, tab, path, ratio)));
    this.search = new SearchBar(() => this.active, () => this.theme, back);
    this.keyRow = new KeyRow(() => this.active);
    this.menu = this.makeMenu(back);
    const look = watchTheme(() => this.settings.get().theme, (theme) => this.useTheme(theme));
    this.settings.watch((settings) => {
      document.body.dataset["keyRow"] = settings.keyRow;
      byId("reader").textContent = settings.screenReader ? "Turn off screen reader mode" : "Turn on screen reader mode";
      look();
    });
    byId("reader").addEventListener("click", () => {
      this.settings.set({ screenReader: !this.settings.get().screenReader });
      this.say(this.settings.get().screenReader ? "Screen reader mode is on. Ctrl+Shift+M opens the menu." : "Screen reader mode is off.");
      back();
    });
    byId("new-tab").addEventListener("click", () => this.act("new"));
    this.apply(this.layout);
    new Drawer([...panels, settingsPanel(this.settings)], this.context(), back);
    window.addEventListener("resize", () => this.active.resized());
    window.addEventListener("storage", ({ key }) => {
      if (key === SETTINGS) this.settings.reread();
    });
    window.addEventListener("keydown", (event) => this.key(event), true);
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") void this.lookForShells();
    });
    this.active.focus();
    void this.lookForShells();
    this.expose();
  }

  private get active(): Pane {
    const pane = this.panes.get(layouts.currentTab(this.layout).active);
    if (!pane) throw new Error("the active pane is missing");
    return pane;
  }

  // --- tabs and panes

  /** Makes the page what the layout says, and remembers it. */
  private apply(layout: layouts.Layout): void {
    const before = this.layout;
    this.layout = layout;
    for (const each of this.stores) {
      try {
        each?.setItem(this.layoutKey, JSON.stringify(layout));
      } catch {
        // not remembered then
      }
    }
    const wanted = new Set(layouts.allShells(layout));
    for (const [shell, pane] of this.panes) {
      if (wanted.has(shell)) continue;
      pane.dispose();
      this.panes.delete(shell);
    }
    const tab = layouts.currentTab(layout);
    const shown = layouts.shellsOf(tab.root);
    for (const [shell, pane] of this.panes) pane.element.hidden = !shown.includes(shell);
    this.splits.show(tab, (shell) => this.pane(shell).element);
    this.tabs.show(layout);
    byId("tab-bar").classList.toggle("several", layout.tabs.length > 1);
    if (layouts.currentTab(before).active !== tab.active) this.told = null;
    this.search.follow();
    this.show();
  }

  /** The pane of a shell, opened when it is first shown. */
  private pane(shell: string): Pane {
    const known = this.panes.get(shell);
    if (known) return known;
    const url = new URL("ws", this.base);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const pane = new Pane(this.session, shell, url, byId("panes"), this.events());
    this.panes.set(shell, pane);
    pane.screen.use(this.settings.get(), this.theme);
    queueMicrotask(() => pane.open()); // it has its place by then, and knows its size
    return pane;
  }

  private events(): PaneEvents {
    return {
      changed: (pane) => {
        this.tabs.retitle();
        if (pane === this.active) this.show();
      },
      focused: (pane) => {
        if (pane !== this.active) this.apply(layouts.activate(this.layout, pane.shell));
      },
      closes: (pane) => void this.closeShells([pane.shell]),
      closed: (pane) => {
        const mine = focusIsIn(pane.element);
        this.say("A terminal was closed by somebody else.");
        this.forget([pane.shell]);
        if (mine) this.active.focus(); // else somebody types elsewhere
      },
      typing: (data) => this.keyRow.apply(data),
      loggedOut: () => location.reload(),
      outdated: () => location.reload(),
      dropped: () => void fetchTimeline(), // goes to the login page when that is why
      askPaste: (text, go) => void this.askPaste(text, go),
      copySelected: (text) => void this.copyOut(text),
      programCopies: (wish) => this.programCopies(wish),
    };
  }

  private create(put: (shell: string) => layouts.Layout): void {
    if (this.role === "viewer") return this.say("You watch here: new terminals are for those who may type.");
    if (layouts.allShells(this.layout).length >= this.most) return this.say(`There are ${this.most} terminals already, the most this session has. Close one first.`);
    this.apply(put(layouts.freshName(crypto.getRandomValues(new Uint8Array(8)))));
    this.active.focus();
  }

  private async closeTab(id: string): Promise<void> {
    const tab = this.layout.tabs.find((each) => each.id === id);
    if (tab) await this.closeShells(layouts.shellsOf(tab.root));
  }

  private async closeShells(shells: string[]): Promise<void> {
    const known = shells.map((shell) => this.panes.get(shell));
    const busy = known.filter((pane) => pane === undefined || pane.busy).length;
    const watches = this.role === "viewer";
    if (busy && !watches && !(await askToClose(shells.length))) return this.active.focus();
    this.forget(shells);
    this.active.focus();
    if (!watches) await Promise.all(shells.map((shell) => this.end(shell)));
  }

  private async end(shell: string): Promise<void> {
    this.ending.add(shell);
    await this.api(`shells/${shell}`, { method: "DELETE" }).catch(() => undefined); // away: it is closed when idle
    this.ending.delete(shell);
    this.closings += 1;
  }

  /** Takes panes away here; a new one may have the same shell's name afterwards. */
  private forget(shells: string[]): void {
    for (const shell of shells) {
      this.panes.get(shell)?.dispose();
      this.panes.delete(shell);
    }
    this.closings += 1;
    this.apply(shells.reduce(layouts.closePane, this.layout));
  }

  /** Shows the shells that others have opened. */
  private async lookForShells(): Promise<void> {
    const before = this.closings;
    try {
      const reply = await this.api("shells");
      if (!reply.ok) return;
      const { shells, most } = (await reply.json()) as { shells: { name: string }[]; most: number };
      this.most = most;
      if (before !== this.closings) return await this.lookForShells(); // it may tell of one that is closed by now
      const more = layouts.withShells(this.layout, shells.map(({ name }) => name).filter((name) => !this.ending.has(name)));
      if (more !== this.layout) this.apply(more);
    } catch {
      // the server is away; the connections say so
    }
  }

  // --- keys and menu

  private key(event: KeyboardEvent): void {
    const action = event.isComposing || document.querySelector("dialog[open]") ? null : actionOf(event);
    const inTerminal = event.target instanceof Element && event.target.closest(".screen") !== null;
    if (action === null || ((action === "copy" || action === "paste") && !inTerminal)) return;
    event.stopPropagation();
    if (action === "paste") return; // the browser pastes
    event.preventDefault();
    this.act(action);
  }

  private act(action: Action): void {
    const { shell } = this.active;
    const step = (layout: layouts.Layout): void => {
      this.apply(layout);
      this.active.focus();
    };
    switch (action) {
      case "new": return this.create((fresh) => layouts.addTab(this.layout, fresh));
      case "split-right": return this.create((fresh) => layouts.splitPane(this.layout, shell, "row", fresh));
      case "split-down": return this.create((fresh) => layouts.splitPane(this.layout, shell, "column", fresh));
      case "close": return void this.closeShells([shell]);
      case "next-tab": return step(layouts.stepTab(this.layout, 1));
      case "previous-tab": return step(layouts.stepTab(this.layout, -1));
      case "next-pane": return step(layouts.stepPane(this.layout));
      case "find": return this.search.open();
      case "full-screen": return void this.fullScreen();
      case "menu": return this.menu.open();
      case "help": return void showKeys();
      case "copy": return void this.copyOut(this.active.screen.terminal.getSelection());
      case "paste": return;
    }
  }

  private makeMenu(back: () => void): Menu {
    const item = (label: string, action: Action) => ({ label, action, run: () => this.act(action) });
    const types = (): boolean => this.role !== "viewer";
    return new Menu(byId("menu-button"), byId("menu"), [
      { ...item("New terminal", "new"), when: types },
      { ...item("Split right", "split-right"), when: types },
      { ...item("Split down", "split-down"), when: types },
      { label: "Rename this tab", run: () => this.tabs.rename(this.layout.current) },
      item("Close this terminal", "close"),
      item("Find", "find"),
      { ...item("Full screen", "full-screen"), when: () => document.fullscreenEnabled },
      { label: "To the tabs", run: () => this.tabs.focus(this.layout.current) },
      item("Keys", "help"),
    ], back);
  }

  private async fullScreen(): Promise<void> {
    try {
      if (document.fullscreenElement) await document.exitFullscreen();
      else await document.documentElement.requestFullscreen();
    } catch {
      this.say("This browser does not allow full screen here.");
    }
    this.active.focus();
  }

  // --- clipboard

  private async copyOut(text: string): Promise<void> {
    if (!text) return;
    this.say((await copy(text)) ? "Copied." : "The browser did not let the page copy.");
  }

  private async askPaste(text: string, go: (text: string) => void): Promise<void> {
    const { text: wanted, again } = await askToPaste(text);
    if (!again) this.settings.set({ pasteGuard: false });
    if (wanted) go(wanted);
    this.active.focus();
  }

  private programCopies(wish: Wish): void {
    if (wish.kind === "ignored" || !this.settings.get().programCopy) return;
    if (wish.kind === "too-large") return this.say("A program wanted to copy more than 100 kB: nothing was copied.");
    const { text } = wish;
    void copy(text).then((done) => {
      if (done) this.say(`A program has copied ${text.length} characters.`);
      else this.say(`A program wants to copy ${text.length} characters.`, { label: "Copy", run: () => void this.copyOut(text) });
    });
  }

  // --- what the page says

  private context(): Context {
    return {
      session: this.session,
      base: this.base,
      role: () => this.active.state?.role ?? this.role,
      me: () => this.active.state?.you ?? "",
      onState: (listener) => {
        this.listeners.add(listener);
        if (this.active.state) listener(this.active.state);
        return () => this.listeners.delete(listener);
      },
      activeShell: () => this.active.shell,
      takeOver: () => this.active.send(protocol.lead()),
      say: (text) => this.say(text),
      api: (path, init) => this.api(path, init),
    };
  }

  private async api(path: string, init?: RequestInit): Promise<Response> {
    const reply = await fetch(new URL(path, this.base), { cache: "no-store", ...init });
    if (reply.status === 401) location.reload();
    return reply;
  }

  private say(text: string, action?: { label: string; run(): void }): void {
    const clear = (): void => byId("said").replaceChildren();
    const run = (): void => {
      clear();
      action?.run();
    };
    byId("said").replaceChildren(make("span", {}, text.slice(0, 300)), ...(action ? [make("button", { type: "button", click: run }, action.label)] : []));
    clearTimeout(this.saidTimer);
    this.saidTimer = window.setTimeout(clear, action ? 3 * SAID_FOR : SAID_FOR);
  }

  private useTheme(theme: ThemeName): void {
    this.theme = theme;
    document.documentElement.dataset["theme"] = theme;
    const ground = getComputedStyle(document.documentElement).getPropertyValue("--raised");
    document.querySelector("meta[name=theme-color]")?.setAttribute("content", ground);
    for (const pane of this.panes.values()) pane.screen.use(this.settings.get(), theme);
  }

  private show(): void {
    const { words, state, latency, title } = this.active;
    document.body.dataset["state"] = words.state;
    byId("state").textContent = words.pill;
    byId("latency").textContent = latencyInWords(latency, state?.guest_ms ?? null);
    byId("latency").title = state?.guest_ms == null ? "Round trip to the server" : "Round trips: to the server, and from there to the machine";
    const tab = layouts.currentTab(this.layout);
    byId("title").textContent = title;
    byId("title").hidden = layouts.label(tab, title) === title; // the tab says it already
    document.title = title ? `${title.slice(0, 100)} · ${this.session}` : `${this.session} · dozlab`;
    if (words.state === "waiting") this.waiting.show();
    else if (words.state !== "reconnecting") this.waiting.hide();
    byId("new-tab").hidden = (state?.role ?? this.role) === "viewer";
    if (state && state !== this.told) {
      this.told = state;
      this.role = state.role;
      byId("people").hidden = state.clients < 2;
      byId("people").textContent = `+${state.clients - 1} open`;
      showRecording(byId("recording"), state.recording);
      for (const listener of [...this.listeners]) listener(state);
    }
  }

  /** For browser tests and for support: the emulator, its visible text and whole state, and a dropped connection. */
  private expose(): void {
    Object.assign(window, {
      dozlabScreenText: () => this.active.screen.text(),
      dozlabScreenState: () => this.active.screen.state(),
      dozlabDrop: () => this.active.reopen(),
      dozlabTerminal: () => this.active.screen.terminal,
    });
  }
}

export function start(panels: readonly Panel[]): void {
  giveStylesTheNonce();
  styleSpansByScript();
  new App(panels);
}
