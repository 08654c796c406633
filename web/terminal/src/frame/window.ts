/** The browser's window around the page: full screen with its keys, and the phone's keyboard that lies over it. */

/** Keys that the browser would keep for itself: in full screen vim wants Esc, and bash Ctrl+W. */
const LOCKED = ["Escape", "KeyW", "KeyT", "KeyN"];

interface Keyboard {
  lock?(codes: string[]): Promise<void>;
}

/** Into full screen, or out of it; false where the browser does not allow it. */
export async function toggleFullScreen(): Promise<boolean> {
  try {
    if (document.fullscreenElement) {
      await document.exitFullscreen();
      return true;
    }
    await document.documentElement.requestFullscreen();
  } catch {
    return false;
  }
  const { keyboard } = navigator as { keyboard?: Keyboard };
  await keyboard?.lock?.(LOCKED).catch(() => undefined); // it ends with the full screen; holding Esc leaves it still
  return true;
}

/**
 * Keeps the page above a keyboard that covers it: Safari on iOS makes the page no smaller for it, whatever the viewport says
 * (WebKit has no interactive-widget), so the last lines and the row of keys would lie below.
 */
export function stayAboveKeyboard(): void {
  const view = window.visualViewport;
  if (!view) return;
  const fit = (): void => {
    const covered = view.scale < 1.01 && window.innerHeight - view.height > 1; // else somebody has zoomed in
    document.body.style.height = covered ? `${view.height}px` : "";
    document.body.style.top = covered ? `${view.offsetTop}px` : "";
  };
  view.addEventListener("resize", fit);
  view.addEventListener("scroll", fit);
}
