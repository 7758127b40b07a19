// How far something is.

import { html } from "../lib/dom.js";
import { percent } from "../lib/i18n.js";

/**
 * A bar. `value` is a share between 0 and 1; null means that the end is not known.
 * `label` says what is going on.
 */
export function Progress({ value, label, text }) {
  const known = value !== null && value !== undefined;
  return html`<div class="progress">
    <progress max="1" value=${known ? value : undefined} aria-label=${label}></progress>
    <span class="progress-text">${text ?? (known ? percent(value, 0) : "")}</span>
  </div>`;
}
