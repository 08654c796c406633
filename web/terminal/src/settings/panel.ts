/** The settings, as a side panel: each change holds at once and is remembered by this browser. */

import { make } from "../dom";
import type { Panel } from "../panels";
import { CHOICES, DEFAULTS, goodFont, RANGES, type LiveSettings, type Settings } from "./settings";
import "./panel.css";

const ICON = "M4 7h9M17 7h3M4 17h3M11 17h9M13 7a2 2 0 1 0 4 0a2 2 0 1 0-4 0M7 17a2 2 0 1 0 4 0a2 2 0 1 0-4 0";

const WORDS: Record<string, string> = {
  system: "System", dark: "Dark", light: "Light", contrast: "High contrast",
  block: "Block", bar: "Bar", underline: "Underline",
  auto: "On touch devices", on: "Always", off: "Never",
  shell: "As the shell counts (Unicode 14)", graphemes: "Whole graphemes (Unicode 15)",
};

/** Names of the settings whose values are of a kind. */
type Of<T> = { [K in keyof Settings]: Settings[K] extends T ? K : never }[keyof Settings];

export function settingsPanel(live: LiveSettings): Panel {
  return { id: "settings", label: "Settings", icon: ICON, roles: ["owner", "editor", "viewer"], open: (body) => fill(body, live) };
}

function fill(body: HTMLElement, live: LiveSettings): () => void {
  const refresh: ((settings: Settings) => void)[] = [];
  const set = (change: Partial<Settings>): void => live.set(change);

  const themes = CHOICES.theme.map((value) => {
    const input = make("input", { type: "radio", name: "theme", value, change: () => set({ theme: value }) });
    refresh.push((settings) => (input.checked = settings.theme === value));
    return make("label", { class: `theme theme-${value}` }, input, make("span", { class: "swatch", "aria-hidden": "true" }), WORDS[value] ?? value);
  });

  const number = (name: keyof typeof RANGES, label: string, step: string): HTMLElement => {
    const [least, most] = RANGES[name];
    const shown = make("span", { class: "value" });
    const input = make("input", { type: "range", min: String(least), max: String(most), step, input: () => set({ [name]: Number(input.value) }) });
    refresh.push((settings) => {
      input.value = String(settings[name]);
      shown.textContent = name === "fontSize" ? `${settings[name]} px` : settings[name].toFixed(2);
    });
    return make("label", { class: "field" }, make("span", {}, label, shown), input);
  };

  const font = make("input", {
    type: "text", placeholder: "The page's own", autocomplete: "off", spellcheck: "false",
    change: () => {
      const good = goodFont(font.value);
      font.setAttribute("aria-invalid", String(!good));
      if (good) set({ fontFamily: font.value.trim() });
    },
  });
  refresh.push((settings) => {
    if (document.activeElement !== font) font.value = settings.fontFamily;
  });

  const choice = (name: "cursorStyle" | "keyRow" | "widths", label: string): HTMLElement => {
    const select = make("select", { change: () => set({ [name]: select.value }) }, ...CHOICES[name].map((value) => make("option", { value }, WORDS[value] ?? value)));
    refresh.push((settings) => (select.value = settings[name]));
    return make("label", { class: "field" }, make("span", {}, label), select);
  };

  const check = (name: Of<boolean>, label: string, note = ""): HTMLElement => {
    const input = make("input", { type: "checkbox", role: "switch", class: "switch", change: () => set({ [name]: input.checked }) });
    refresh.push((settings) => (input.checked = settings[name]));
    return make("label", { class: "check" }, make("span", {}, label, ...(note ? [make("small", {}, note)] : [])), input);
  };

  body.append(make("form", { class: "settings", submit: (event) => event.preventDefault() },
    group("Theme", make("div", { class: "themes" }, ...themes)),
    group("Text", number("fontSize", "Size", "1"), number("lineHeight", "Line height", "0.05"), make("label", { class: "field" }, make("span", {}, "Font"), font), choice("widths", "Width of characters")),
    group("Cursor", choice("cursorStyle", "Shape"), check("cursorBlink", "Blinks")),
    group("Copy and paste", check("copyOnSelect", "Copy what is selected"), check("pasteGuard", "Ask before many lines are pasted"), check("programCopy", "Programs may copy", "A notice says so each time; they can never read.")),
    group("Keys and access", choice("keyRow", "Row of keys"), check("screenReader", "Screen reader mode"),
      ...(/^(Mac|iP)/.test(navigator.platform) ? [check("optionIsMeta", "Option is Alt for programs", "Then it types no special characters.")] : [])),
    make("button", { type: "button", class: "quiet reset", click: () => set(DEFAULTS) }, "Back to the defaults"),
  ));
  return live.watch((settings) => {
    for (const each of refresh) each(settings);
  });
}

function group(legend: string, ...content: HTMLElement[]): HTMLElement {
  return make("fieldset", {}, make("legend", {}, legend), ...content);
}
