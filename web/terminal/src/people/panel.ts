/** The side panel of people: who is here and who leads, taking over, invitations made, listed and revoked. */

import { exchange, focusIsIn, make } from "../dom";
import type { Context, Panel } from "../panels";
import type { Role, State } from "../protocol";
import { called, ENDS, endsIn, leading, MEANS, persons, ROLE, where, type Here, type Invitation, type Person } from "./words";
import "./panel.css";

const ICON = "M9 11a3.5 3.5 0 1 0 0-7a3.5 3.5 0 0 0 0 7M2.5 20c0-3.6 2.9-6 6.5-6s6.5 2.4 6.5 6M16 4.3a3.5 3.5 0 0 1 0 6.4M18 14.6c2.2 .8 3.5 2.7 3.5 5.4";
const REFRESH = 10_000;
/** Milliseconds after which a take-over that changed nothing was refused. */
const REFUSED_AFTER = 800;

interface Told {
  you: string;
  /** The invitation says who this is. */
  named: boolean;
  people: Here[];
  /** Owners only. */
  invitations?: Invitation[];
}

export const panel: Panel = { id: "people", label: "People", icon: ICON, roles: ["owner", "editor", "viewer"], open };

function open(body: HTMLElement, context: Context): () => void {
  const view = new View(body, context);
  return () => view.close();
}

class View {
  private readonly lead = make("p", { class: "lead", tabindex: "-1" });
  private readonly takeOver = make("button", { type: "button", class: "quiet", click: () => this.askToLead() }, "Take over");
  private readonly list = make("ul", { class: "rows", "aria-label": "Who is here" });
  private readonly name = make("input", { type: "text", id: "my-name", maxlength: "40", autocomplete: "nickname", placeholder: "How others see you" });
  private readonly naming = make("form", { class: "line", submit: (event) => this.saveName(event) },
    make("label", { class: "field", for: "my-name" }, "Your name"), this.name, make("button", { type: "submit", class: "quiet" }, "Save"));
  private readonly invitations = make("ul", { class: "rows invited", "aria-label": "Invitations" });
  private readonly submit = make("button", { type: "submit" }, "Make a link");
  private readonly link = make("div", { class: "link", hidden: true });
  private readonly inviting = make("section", { hidden: true });
  private readonly undo: () => void;
  private readonly timer: number;
  private state: State | null = null;
  private seen = "";
  private listed = "";
  private turn = 0;
  private making = false;
  /** The invitation whose link is shown; "" for none. */
  private linkOf = "";
  private readonly revoking = new Set<string>();
  private closed = false;

  constructor(
    body: HTMLElement,
    private readonly context: Context,
  ) {
    this.inviting.append(make("h3", {}, "Invite"), this.invitationForm(), this.link, this.invitations);
    const present = make("section", {}, make("h3", {}, "Here now"), this.list, make("div", { class: "line" }, this.lead, this.takeOver), this.naming);
    body.append(make("div", { class: "people" }, present, this.inviting));
    this.naming.hidden = true;
    this.undo = context.onState((state) => this.changed(state));
    this.timer = window.setInterval(() => void this.refresh(), REFRESH);
    void this.refresh();
  }

  close(): void {
    this.closed = true;
    clearInterval(this.timer);
    this.undo();
  }

  private changed(state: State): void {
    this.state = state;
    const { text, offer } = leading(state);
    this.lead.textContent = text;
    if (!offer && document.activeElement === this.takeOver) this.lead.focus(); // the button goes
    this.takeOver.hidden = !offer;
    const seen = JSON.stringify(state.people);
    if (seen === this.seen) return;
    this.seen = seen;
    void this.refresh();
  }

  private async refresh(): Promise<void> {
    this.turn += 1;
    const turn = this.turn;
    const reply = await this.context.api("people").catch(() => null);
    const told = reply?.ok ? ((await reply.json().catch(() => null)) as Told | null) : null;
    if (told && !this.closed && turn === this.turn) this.show(told); // a connection that is gone is said by the header
  }

  private show(told: Told): void {
    this.list.replaceChildren(...persons(told.people, this.context.activeShell()).map((person) => this.row(person, told.you)));
    if (this.naming.hidden) this.name.value = told.people.find((each) => each.id === told.you)?.name ?? "";
    this.naming.hidden = told.named;
    this.inviting.hidden = !told.invitations;
    this.showInvitations(told.invitations ?? []);
  }

  /** Leaves the list alone while it says the same, so that the focus stays where it is. */
  private showInvitations(all: Invitation[]): void {
    const listed = JSON.stringify(all.map(({ id, used, left }) => [id, used, endsIn(left)]));
    if (listed === this.listed) return;
    this.listed = listed;
    if (exchange(this.invitations, all.map((each) => this.invitation(each)))) this.submit.focus();
  }

  private row(person: Person, you: string): HTMLElement {
    const who = make("span", { class: "who" }, called(person), ...(person.id === you ? [make("small", {}, " (you)")] : []));
    const shells = where(person.shells, this.context.activeShell(), (shell) => this.context.nameOf(shell));
    const row = make("li", {}, who, make("span", { class: `role ${person.role}` }, ROLE[person.role]));
    if (person.leads) row.append(make("span", { class: "leads" }, "leads"));
    if (shells) row.append(make("small", { class: "shells" }, shells));
    return row;
  }

  private askToLead(): void {
    this.context.takeOver();
    window.setTimeout(() => {
      if (!this.closed && this.state && !this.state.lead) this.context.say("An owner is typing. Try again in a few seconds.");
    }, REFUSED_AFTER);
  }

  private saveName(event: Event): void {
    event.preventDefault();
    void this.send("people/me", "PUT", { name: this.name.value }).then((told) => {
      if (told) this.context.say("Others see you by this name now.");
    });
  }

  /** Returns the answer's JSON; says what is wrong and returns null when it was refused. */
  private async send(path: string, method: string, sent?: object): Promise<Record<string, unknown> | null> {
    const init: RequestInit = sent ? { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(sent) } : { method };
    const reply = await this.context.api(path, init).catch(() => null);
    const told = ((await reply?.json().catch(() => null)) ?? {}) as Record<string, unknown>;
    if (reply?.ok) return told;
    this.context.say(typeof told["error"] === "string" ? told["error"] : "The server does not answer. Try again.");
    return null;
  }

  private invitationForm(): HTMLElement {
    const means = make("small", { id: "invite-means" }, MEANS.viewer);
    const explain = (): void => void (means.textContent = MEANS[role.value as Role]);
    const roles = (["viewer", "editor", "owner"] as const).map((each) => make("option", { value: each }, ROLE[each]));
    const role = make("select", { id: "invite-role", "aria-describedby": "invite-means", change: explain }, ...roles);
    const name = make("input", { type: "text", id: "invite-name", maxlength: "40", autocomplete: "off", placeholder: "They may say it themselves" });
    const ends = make("select", { id: "invite-ends" }, ...ENDS.map(({ seconds, label }) => make("option", { value: String(seconds) }, label)));
    ends.value = "7200";
    const submit = (event: Event): void => {
      event.preventDefault();
      if (this.making) return; // a second link would take the place of the first, which is shown only once
      this.making = true;
      const asked = { role: role.value, name: name.value, seconds: Number(ends.value) };
      void this.send("people/invitations", "POST", asked).then((told) => {
        this.making = false;
        if (!told || this.closed) return;
        const { id } = told["invitation"] as Invitation;
        const waits = name.value === asked.name; // nothing was typed meanwhile
        if (waits) name.value = "";
        this.showLink(new URL(String(told["path"]), this.context.base).href, id, waits && focusIsIn(form));
        void this.refresh();
      });
    };
    const form: HTMLElement = make("form", { class: "invite", submit },
      make("label", { for: "invite-role" }, "Role"), role, means,
      make("label", { for: "invite-name" }, "Who"), name,
      make("label", { for: "invite-ends" }, "Ends after"), ends, this.submit);
    return form;
  }

  private showLink(href: string, id: string, focus: boolean): void {
    this.linkOf = id;
    const shown = make("input", { type: "text", readonly: true, class: "mono", "aria-label": "Link", value: href });
    const copy = make("button", { type: "button", class: "quiet", click: () => void this.copy(shown) }, "Copy");
    this.link.replaceChildren(make("div", { class: "line" }, shown, copy), make("p", {}, "It works once, and is shown only here and now."));
    this.link.hidden = false;
    if (focus) copy.focus();
  }

  private async copy(shown: HTMLInputElement): Promise<void> {
    shown.select();
    try {
      await navigator.clipboard.writeText(shown.value);
    } catch {
      if (!document.execCommand("copy")) return this.context.say("The browser does not let the page copy: the link is selected, press Ctrl+C.");
    }
    this.context.say("Link copied.");
  }

  private invitation(invitation: Invitation): HTMLElement {
    const name = invitation.name || "Guest";
    const revoke = async (): Promise<void> => {
      if (this.revoking.has(invitation.id)) return;
      this.revoking.add(invitation.id);
      const done = await this.send(`people/invitations/${invitation.id}`, "DELETE");
      this.revoking.delete(invitation.id);
      if (!done) return;
      if (this.linkOf === invitation.id) this.link.hidden = true;
      this.context.say("Revoked. Who came in by it is out.");
      void this.refresh();
    };
    return make("li", { "data-key": invitation.id },
      make("span", { class: "who" }, name), make("span", { class: `role ${invitation.role}` }, ROLE[invitation.role]),
      make("button", { type: "button", class: "quiet", "aria-label": `Revoke the invitation of ${name}`, click: () => void revoke() }, "Revoke"),
      make("small", { class: "shells" }, `${invitation.used ? "came in" : "not used yet"}, ends in ${endsIn(invitation.left)}`));
  }
}
