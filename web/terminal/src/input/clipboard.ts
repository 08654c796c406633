/** Text into the clipboard, with and without the browser's API for it (which plain http on a network lacks). */

/** Copies; false when the browser refuses, which it may without a key or a click. */
export async function copy(text: string): Promise<boolean> {
  try {
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(text);
      return true;
    }
  } catch {
    // no permission, or the page has not the focus
  }
  return copyByCommand(text);
}

function copyByCommand(text: string): boolean {
  let done = false;
  const give = (event: ClipboardEvent): void => {
    event.clipboardData?.setData("text/plain", text);
    event.preventDefault();
    event.stopImmediatePropagation();
    done = true;
  };
  window.addEventListener("copy", give, { capture: true, once: true });
  try {
    document.execCommand("copy");
  } finally {
    window.removeEventListener("copy", give, { capture: true });
  }
  return done;
}
