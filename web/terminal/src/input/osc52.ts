/** OSC 52: a program that puts text into the clipboard. Write only, within a limit; asking for the clipboard is never answered. Pure. */

/** Bytes of text at most; more is refused as a whole. */
export const MOST_COPIED = 100_000;

export type Wish = { kind: "copy"; text: string } | { kind: "too-large" } | { kind: "ignored" };

/** What the payload behind "52;" asks for: "c;<base64>". Selections other than the clipboard ("p", ...) count as it. */
export function read(payload: string): Wish {
  const at = payload.indexOf(";");
  if (at < 0 || !/^[cpqs0-7]*$/.test(payload.slice(0, at))) return { kind: "ignored" };
  const encoded = payload.slice(at + 1);
  if (encoded === "" || encoded === "?") return { kind: "ignored" };
  if (encoded.length > Math.ceil(MOST_COPIED / 3) * 4) return { kind: "too-large" };
  try {
    const bytes = Uint8Array.from(atob(encoded), (char) => char.charCodeAt(0));
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    if (bytes.length > MOST_COPIED) return { kind: "too-large" };
    return text ? { kind: "copy", text } : { kind: "ignored" };
  } catch {
    return { kind: "ignored" };
  }
}
