/** Why this page goes to the login page: kept in the tab's own store across the load, and told there. */

const KEY = "dozlab.why";
const MOST = 200;

/** Loads the address anew, which is the login page for whom the server does not know. The first reason is told. */
export function toLogin(why: string): void {
  try {
    if (!sessionStorage.getItem(KEY)) sessionStorage.setItem(KEY, why.slice(0, MOST));
  } catch {
    // not told then
  }
  location.reload();
}

/** What was to be told; "" for nothing. It is forgotten. */
export function takeReason(): string {
  try {
    const why = sessionStorage.getItem(KEY) ?? "";
    sessionStorage.removeItem(KEY);
    return why;
  } catch {
    return "";
  }
}

/** For an answer that knows nobody (401). */
export const UNKNOWN = "You were logged out: the login has ended, or the terminal was started anew. Your tabs are kept.";

/** A close frame's reason as a sentence. */
export function sentence(reason: string): string {
  return reason ? `${reason[0]?.toUpperCase() ?? ""}${reason.slice(1)}.` : UNKNOWN;
}
