// Light, dark, or what the system says.

import { recall, remember } from "./local.js";
import { Store } from "./store.js";

export const THEMES = ["system", "light", "dark"];

/** The choice, one of THEMES. */
export const theme = new Store(recall("theme", "system"));

/** Use a theme from now on. */
export function setTheme(name) {
  remember("theme", name === "system" ? null : name);
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  theme.set(name);
}
