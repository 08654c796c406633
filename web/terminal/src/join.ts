/** The page of an invitation: posts the ticket of the address's fragment, which no server and no proxy has seen. */

import { byId } from "./dom";

const base = new URL("./", location.href);
const name = byId("name") as HTMLInputElement;
const go = byId("go") as HTMLButtonElement;

/** Says what is wrong; the link cannot be tried again then, unless the ticket is still good. */
function refuse(text: string, again: boolean): void {
  byId("error").textContent = text;
  go.disabled = !again;
  if (!again) history.replaceState(null, "", location.pathname);
}

async function join(): Promise<void> {
  const ticket = location.hash.slice(1);
  if (!ticket) return refuse("This link is not whole: open it again as you were sent it.", false);
  go.disabled = true;
  try {
    const reply = await fetch(new URL("join", base), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ticket, name: name.value }),
    });
    if (reply.ok) return location.replace(base);
    const told = (await reply.json()) as { error?: string };
    refuse(told.error ?? `The server answers ${reply.status}.`, reply.status === 409);
  } catch {
    refuse("The server does not answer. Try again.", true);
  }
}

byId("join").addEventListener("submit", (event) => {
  event.preventDefault();
  void join();
});
