/** Questions over the page: modal, closed by Escape, with the focus given back by the browser. */

import { make } from "../dom";
import { asOneLine, clean, lines, preview } from "../input/paste";
import { CHORDS } from "./chords";

interface Answer {
  value: string;
  label: string;
  kind: "main" | "quiet" | "bad";
}

let counted = 0;

/** Asks, and returns the answer's value; "" when it was dismissed. The first answer has the focus, unless something else is to have it. */
export async function ask(title: string, body: (Node | string)[], answers: readonly Answer[], focus?: HTMLElement): Promise<string> {
  counted += 1;
  const heading = make("h2", { id: `dialog-${counted}` }, title);
  const buttons = answers.map(({ value, label, kind }) => make("button", { type: "submit", value, class: kind }, label));
  const form = make("form", { method: "dialog" }, heading, ...body, make("div", { class: "answers" }, ...buttons));
  const dialog = make("dialog", { class: "dialog", "aria-labelledby": heading.id }, form);
  document.body.append(dialog);
  dialog.showModal();
  (focus ?? buttons[0])?.focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
  });
}

export async function askToClose(many: number): Promise<boolean> {
  const what = many > 1 ? `Close these ${many} terminals?` : "Close this terminal?";
  const text = make("p", {}, many > 1 ? "What runs in them is ended." : "What runs in it is ended.");
  return (await ask(what, [text], [{ value: "close", label: "Close", kind: "bad" }, { value: "", label: "Keep", kind: "quiet" }])) === "close";
}

/** Shows the lines of a paste. Returns what to type, "" for nothing, and whether to ask again the next time. */
export async function askToPaste(text: string): Promise<{ text: string; again: boolean }> {
  const { shown, more } = preview(clean(text));
  const never = make("input", { type: "checkbox" });
  const body = [
    make("p", {}, "The shell would run each line as soon as it comes."),
    make("pre", { class: "pasted", tabindex: "0", "aria-label": "What would be pasted" }, more ? `${shown}\n… and ${more} more` : shown),
    make("label", { class: "check" }, never, "Paste without asking from now on"),
  ];
  const answer = await ask(`Paste ${lines(text).length} lines?`, body, [
    { value: "paste", label: "Paste", kind: "main" },
    { value: "line", label: "Paste as one line", kind: "quiet" },
    { value: "", label: "Cancel", kind: "quiet" },
  ]);
  return { text: answer === "paste" ? text : answer === "line" ? asOneLine(text) : "", again: !(answer && never.checked) };
}

/** Takes a text where the browser does not give what is in the clipboard: on plain http, or when it was told not to. */
export async function askForText(): Promise<string> {
  const field = make("textarea", { class: "to-paste", rows: "5", "aria-label": "What to paste", autocapitalize: "off", autocomplete: "off", spellcheck: "false" });
  const body = [make("p", {}, "The browser does not show its clipboard to this page. Paste here, as in every field."), field];
  const answer = await ask("Paste into the terminal", body, [{ value: "paste", label: "Paste", kind: "main" }, { value: "", label: "Cancel", kind: "quiet" }], field);
  return answer ? field.value : "";
}

export async function showKeys(): Promise<void> {
  const row = (keys: string, what: string): HTMLElement => make("div", { class: "key" }, make("dt", {}, ...keys.split("+").map((key) => make("kbd", {}, key))), make("dd", {}, what));
  const page = make("dl", { class: "keys" }, ...CHORDS.map(({ shown, what }) => row(`Ctrl+Shift+${shown}`, what)));
  const tabs = make("dl", { class: "keys" }, row("←+→", "Choose a tab"), row("Ctrl+Shift+←", "Move the tab; → the other way"), row("F2", "Name the tab"), row("Del", "Close the tab"), row("Esc", "Back to the terminal"));
  await ask("Keys", [
    make("div", { class: "help", tabindex: "0", role: "region", "aria-label": "List of keys" },
      make("p", {}, "All other keys go to the program in the terminal."), page,
      make("h3", {}, "On a tab, reached through the menu and Tab"), tabs),
  ], [{ value: "", label: "Close", kind: "quiet" }]);
}
