// How much of something is in use.

import { classes, html } from "../../lib/dom.js";
import { percent } from "../../lib/i18n.js";

/**
 * A filled bar. Unlike a progress bar, it has no end that is waited for.
 * @param {object} props `value`: a share between 0 and 1; `label`: of what; `text`: the share in words;
 *     `kind`: "warn", "danger" or nothing
 */
export function Bar({ value, label, text, kind }) {
  const share = Math.min(1, Math.max(0, value || 0));
  return html`<div class=${classes("bar", kind)} role="meter" aria-label=${label} aria-valuemin="0" aria-valuemax="100"
      aria-valuenow=${Math.round(100 * share)} aria-valuetext=${text ?? percent(share, 0)}>
    <div style=${{ inlineSize: `${100 * share}%` }}></div>
  </div>`;
}
