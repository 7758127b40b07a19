// Buttons with words, and buttons with a drawing.

import { classes, html } from "../lib/dom.js";
import { Icon } from "./icon.js";

/**
 * A button with words, and a drawing if `icon` names one.
 * `kind`: "plain" (the default), "primary" or "danger". `busy`: it works, and cannot be pressed.
 */
export function Button({ icon, kind = "plain", busy = false, disabled = false, children, class: more, ...rest }) {
  return html`<button type="button" class=${classes("button", kind, more)} disabled=${disabled || busy} aria-busy=${busy} ...${rest}>
    ${busy ? html`<span class="spinner" aria-hidden="true"></span>` : icon && html`<${Icon} name=${icon} />`}
    <span>${children}</span>
  </button>`;
}

/** A button with a drawing only. `label` says what it does, to screen readers and as a tooltip. */
export function IconButton({ icon, label, pressed, class: more, ...rest }) {
  return html`<button type="button" class=${classes("icon-button", more)} aria-label=${label} title=${label} aria-pressed=${pressed} ...${rest}>
    <${Icon} name=${icon} />
  </button>`;
}
