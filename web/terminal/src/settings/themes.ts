/** The colours of the emulator in each theme, and which theme is meant. The page's own colours are in style.css. */

import type { ITheme } from "@xterm/xterm";
import type { Settings } from "./settings";

export type ThemeName = "dark" | "light" | "contrast";

/** The theme to show; "system" follows what the system prefers. */
export function chosenTheme(theme: Settings["theme"], prefers: { light: boolean; contrast: boolean }): ThemeName {
  if (theme !== "system") return theme;
  return prefers.contrast ? "contrast" : prefers.light ? "light" : "dark";
}

export const THEMES: Record<ThemeName, ITheme> = {
  dark: {
    background: "#0d1117", foreground: "#d5dde6", cursor: "#6ee7c7", cursorAccent: "#0d1117", selectionBackground: "#2f5f57aa", scrollbarSliderBackground: "#dbe3ec1f", scrollbarSliderHoverBackground: "#dbe3ec38", scrollbarSliderActiveBackground: "#dbe3ec52",
    black: "#1b232d", red: "#f08a8a", green: "#8fd694", yellow: "#e9b872", blue: "#7fb2f0", magenta: "#c9a0ec", cyan: "#6fd3d6", white: "#cdd6df",
    brightBlack: "#728195", brightRed: "#ffa8a3", brightGreen: "#b0e8a9", brightYellow: "#f7d39b", brightBlue: "#a8cdfa", brightMagenta: "#ddc0f7", brightCyan: "#9be8e6", brightWhite: "#f4f8fb",
  },
  light: {
    background: "#fcfcfb", foreground: "#1f2a33", cursor: "#0b7a63", cursorAccent: "#fcfcfb", selectionBackground: "#0b7a633d", scrollbarSliderBackground: "#1f2a331f", scrollbarSliderHoverBackground: "#1f2a3338", scrollbarSliderActiveBackground: "#1f2a3352",
    black: "#1f2a33", red: "#b3261e", green: "#1a7034", yellow: "#8a5a00", blue: "#1f5fb0", magenta: "#84389c", cyan: "#0a6f78", white: "#66727d",
    brightBlack: "#66727d", brightRed: "#c8362d", brightGreen: "#20803d", brightYellow: "#946200", brightBlue: "#2a6fc4", brightMagenta: "#9747b0", brightCyan: "#0d7d87", brightWhite: "#3c4853",
  },
  contrast: {
    background: "#000000", foreground: "#ffffff", cursor: "#ffe14d", cursorAccent: "#000000", selectionBackground: "#ffffff", selectionForeground: "#000000", scrollbarSliderBackground: "#ffffff99", scrollbarSliderHoverBackground: "#ffffffcc", scrollbarSliderActiveBackground: "#ffffff",
    black: "#000000", red: "#ff9b94", green: "#7cf08a", yellow: "#ffe14d", blue: "#8fc4ff", magenta: "#f0a8ff", cyan: "#6ff2f2", white: "#ffffff",
    brightBlack: "#b8c0c8", brightRed: "#ffb9b3", brightGreen: "#a5ffb0", brightYellow: "#fff09a", brightBlue: "#b5d9ff", brightMagenta: "#f7ccff", brightCyan: "#a8ffff", brightWhite: "#ffffff",
  },
};

/** The least contrast that text gets, whatever colours a program asks for (WCAG 2.2, 1.4.3 and 1.4.6). */
export const LEAST_CONTRAST: Record<ThemeName, number> = { dark: 1, light: 4.5, contrast: 7 };

/** Calls with the theme now and whenever the setting or the system's preference changes. */
export function watchTheme(setting: () => Settings["theme"], tell: (theme: ThemeName) => void): () => void {
  const light = matchMedia("(prefers-color-scheme: light)");
  const contrast = matchMedia("(prefers-contrast: more)");
  const look = (): void => tell(chosenTheme(setting(), { light: light.matches, contrast: contrast.matches }));
  for (const query of [light, contrast]) query.addEventListener("change", look);
  look();
  return look;
}
