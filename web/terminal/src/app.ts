/** The terminal page as a whole: tabs and panes, the header that tells of the active one, side panels, keys. */

import { Clips } from "./clips";
import { byId, focusIsIn, make, setText } from "./dom";
import { sentence, takeReason, toLogin, UNKNOWN } from "./farewell";
import { actionOf, type Action } from "./frame/chords";
import { askToClose, showKeys } from "./frame/dialogs";
import { Drawer } from "./frame/drawer";
import { KeyRow } from "./frame/keyrow";
import * as layouts from "./frame/layout";
import { Menu } from "./frame/menu";
import { SearchBar } from "./frame/search";
import { Splits } from "./frame/splits";
import { Tabs } from "./frame/tabs";
import { stayAboveKeyboard, toggleFullScreen } from "./frame/window";
import { Pane, type PaneEvents } from "./pane";
import type { Context, Panel } from "./panels";
import { Company } from "./people/company";
import { keepThePolicy } from "./policy";
import * as protocol from "./protocol";
import { showRecording } from "./recordings/indicator";
import { settingsPanel } from "./settings/panel";
import { LiveSettings } from "./settings/settings";
import { watchTheme, type ThemeName } from "./settings/themes";
import { fetchTimeline, WaitingView } from "./waiting";
import { latencyInWords } from "./words";
import "./frame/frame.css";

const SAID_FOR = 5000;
/** Milliseconds after which a server that does not answer is not waited for any more. */
const ENDS_WITHIN = 60_000;
const SETTINGS = "dozlab.settings";

/** A store of the browser: of this page and its reloads, or of all pages; null where it is forbidden. */
function store(name: "sessionStorage" | "localStorage"): Storage | null {
  try {
    return window[name];
  } catch {
    return null;
  }
}

class App {
  private readonly session = byId("session").textContent ?? "";
  private readonly base = new URL("./", location.href);
  private readonly settings = new LiveSettings(store("localStorage"), SETTINGS);
  /** The page's own comes first: another page of this browser may have other tabs and names. */
  private readonly stores = [store("sessionStorage"), store("localStorage")] as const;
  private readonly layoutKey = `dozlab.layout.${this.session}`;
  private readonly waiting = new WaitingView(byId("waiting"), byId("stages"), byId("waiting-sub"));
  private readonly company = new Company();
  private readonly clips = new Clips(() => this.active, this.settings, (text, action) => this.say(text, action));
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
  /** Shells that are being closed for good: nothing of that name is opened before the server has answered. */
  private readonly ending = new Map<string, Promise<void>>();
  /** The shells of the session as STATE named them last; none where a connection has dropped since. */
  private served: readonly string[] = [];
  /** Shells whose tab was closed here by who only watches: they go on, and do not come back by themselves. */
  private readonly dismissed = new Set<string>();

  constructor(panels: readonly Panel[]) {
    takeReason(); // of a former way out, which has led back in
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
    stayAboveKeyboard();
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
    this.retitle();
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
    void this.opening(shell, pane);
    return pane;
  }

  /** Opens a pane once it has its place and so knows its size, and once what had its name before is closed. */
  private async opening(shell: string, pane: Pane): Promise<void> {
    const former = this.ending.get(shell);
    if (former) pane.keepEarlyKeys();
    await former;
    if (this.panes.get(shell) === pane) pane.open();
  }

  private events(): PaneEvents {
    return {
      changed: (pane) => {
        this.retitle();
        const come = pane.state ? this.company.take(pane.shell, pane.state) : "";
        if (come) this.say(come);
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
      watches: () => {
        if (!byId("said").hasChildNodes()) this.say("You watch here: what you type goes nowhere.");
      },
      loggedOut: (reason) => toLogin(sentence(reason)),
      outdated: () => location.reload(),
      dropped: () => {
        this.served = [];
        void fetchTimeline(); // goes to the login page when that is why
      },
      askPaste: (text, go) => void this.clips.ask(text, go),
      copySelected: (text) => void this.clips.copy(text),
      programCopies: (wish) => this.clips.programCopies(wish),
    };
  }

  private create(put: (shell: string) => layouts.Layout): void {
    if (this.role === "viewer") return this.say("You watch here: new terminals are for those who may type.");
    if (layouts.allShells(this.layout).length >= this.most) return this.say(`There are ${this.most} terminals already, the most this session has. Close one first.`);
    const shell = layouts.freshName(crypto.getRandomValues(new Uint8Array(8)));
    this.apply(put(shell));
    this.panes.get(shell)?.keepEarlyKeys();
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
    for (const shell of shells) {
      if (watches) this.dismissed.add(shell);
      else this.ending.set(shell, this.end(shell));
    }
    this.forget(shells);
    this.active.focus();
  }

  private async end(shell: string): Promise<void> {
    const patience = AbortSignal.timeout(ENDS_WITHIN); // away: it is closed when idle
    await this.api(`shells/${shell}`, { method: "DELETE", signal: patience }).catch(() => undefined);
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

  /** Takes which shells there are: opened by others they get a tab; a tab that was never shown here goes with its shell. */
  private follow(served: readonly string[]): void {
    const before = this.served;
    this.served = served;
    if (served.join() === before.join()) return;
    const known = layouts.allShells(this.layout);
    const gone = known.filter((shell) => before.includes(shell) && !served.includes(shell) && !this.panes.has(shell));
    if (gone.length > 0) this.forget(gone);
    if (served.some((shell) => !known.includes(shell))) void this.lookForShells();
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
      const more = layouts.withShells(this.layout, shells.map(({ name }) => name).filter((name) => !this.ending.has(name) && !this.dismissed.has(name)));
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
      case "full-screen": return void toggleFullScreen().then((done) => {
        if (!done) this.say("This browser does not allow full screen here.");
        this.active.focus();
      });
      case "menu": return this.menu.open();
      case "help": return void showKeys();
      case "copy": return this.clips.copySelection();
      case "paste": return void this.clips.paste();
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
      { ...item("Copy selection or screen", "copy"), run: () => this.clips.copySelectionOrScreen() },
      { ...item("Paste", "paste"), when: types },
      item("Find", "find"),
      { ...item("Full screen", "full-screen"), when: () => document.fullscreenEnabled },
      { label: "To the tabs", run: () => this.tabs.focus(this.layout.current) },
      item("Keys", "help"),
      { label: "Log out", run: () => byId("logout").click(), when: () => !byId("logout").checkVisibility() },
    ], back);
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
      nameOf: (shell) => {
        const tab = layouts.tabOf(this.layout, shell);
        return tab ? layouts.label(tab, this.panes.get(shell)?.title ?? "") : shell;
      },
      takeOver: () => this.active.send(protocol.lead()),
      say: (text) => this.say(text),
      api: (path, init) => this.api(path, init),
    };
  }

  private async api(path: string, init?: RequestInit): Promise<Response> {
    const reply = await fetch(new URL(path, this.base), { cache: "no-store", ...init });
    if (reply.status === 401) toLogin(UNKNOWN);
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
    setText(byId("state"), words.pill);
    setText(byId("latency"), latencyInWords(latency, state?.guest_ms ?? null));
    byId("latency").title = state?.guest_ms == null ? "Round trip to the server" : "Round trips: to the server, and from there to the machine";
    const tab = layouts.currentTab(this.layout);
    setText(byId("title"), title);
    byId("title").hidden = layouts.label(tab, title) === title; // the tab says it already
    document.title = `${this.session} · ${title.slice(0, 100) || "dozlab"}`; // the session first: somebody has 30 of them open
    if (words.state === "waiting") this.waiting.show();
    else if (words.state !== "reconnecting") this.waiting.hide();
    byId("new-tab").hidden = (state?.role ?? this.role) === "viewer";
    if (state && state !== this.told) {
      this.told = state;
      this.role = state.role;
      this.showCompany(state.clients - 1);
      showRecording(byId("recording"), state.recording);
      this.follow(state.shells);
      for (const listener of [...this.listeners]) listener(state);
    }
  }

  /** How many others look at the active terminal; on a phone the button of the panel says it. */
  private showCompany(others: number): void {
    byId("people").hidden = others < 1;
    setText(byId("people"), `+${others} open`);
    const button = document.querySelector<HTMLElement>("[data-panel=people]");
    if (!button) return;
    if (others > 0) button.dataset["others"] = String(others);
    else delete button.dataset["others"];
    button.setAttribute("aria-label", others > 0 ? `People, ${others} more here` : "People");
  }

  /** The terminals' names where they can be read, and where they can be heard. */
  private retitle(): void {
    this.tabs.retitle();
    for (const tab of this.layout.tabs) {
      const shells = layouts.shellsOf(tab.root);
      shells.forEach((shell, at) => {
        const pane = this.panes.get(shell);
        pane?.call(layouts.label(tab, pane.title) + (shells.length > 1 ? `, pane ${at + 1} of ${shells.length}` : ""));
      });
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
  keepThePolicy();
  new App(panels);
}
