// Short messages at the edge of the page.

import { classes, html } from "../lib/dom.js";
import { t } from "../lib/i18n.js";
import { Store, useStore } from "../lib/store.js";
import { IconButton } from "./button.js";

const SHOWN_MS = 6000;
const toasts = new Store([]);
let next = 1;

/**
 * Show a message. Errors, and messages with an action, stay until they are closed.
 * @param {string} text
 * @param {object} [options] `kind`: "info" or "error"; `action`: {label, run}
 */
export function toast(text, { kind = "info", action = null } = {}) {
  const id = next++;
  toasts.set((shown) => [...shown.slice(-3), { id, text, kind, action }]);
  const close = () => toasts.set((shown) => shown.filter((one) => one.id !== id));
  if (kind !== "error" && !action) setTimeout(close, SHOWN_MS);
  return close;
}

/** Show an error of `api`; an interrupted call shows nothing. */
export function toastError(error) {
  if (error?.name === "AbortError") return;
  toast(error?.isAway ? t("app.away_now") : error?.message ?? String(error), { kind: "error" });
}

/**
 * The messages; once on the page, and once in each dialog, at the same place: while a dialog is open,
 * nothing around it can be pressed.
 */
export function Toasts() {
  const shown = useStore(toasts);
  const close = (id) => toasts.set((all) => all.filter((one) => one.id !== id));
  return html`<div class="toasts" role="status" aria-live="polite">
    ${shown.map(({ id, text, kind, action }) => html`<div key=${id} class=${classes("toast", kind)}>
      <span dir="auto">${text}</span>
      ${action && html`<button type="button" class="link" onClick=${() => { close(id); action.run(); }}>${action.label}</button>`}
      <${IconButton} icon="close" label=${t("app.close")} onClick=${() => close(id)} />
    </div>`)}
  </div>`;
}
