/** Links in what a program prints, marked by it (OSC 8) or found in its text: only those to the web are opened. Pure. */

/** Whether a link leads to the web, whatever it says of itself in another place. */
export function isWebLink(uri: string): boolean {
  try {
    return ["http:", "https:"].includes(new URL(uri).protocol);
  } catch {
    return false; // no scheme: it would be taken as a path of this page
  }
}
