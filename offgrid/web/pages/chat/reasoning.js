/** The reasoning of an answer, collapsed. */

import { html, useState } from "../../lib/dom.js";
import { duration, t } from "../../lib/i18n.js";
import { Icon } from "../../parts/icon.js";
import { Markdown } from "./markdown.js";

/**
 * @param {object} props `text`; `isRunning`: the model still reasons; `milliseconds`: how long it
 *     did, if that is known
 */
export function Reasoning({ text, isRunning, milliseconds }) {
  const [open, setOpen] = useState(false);
  return html`<details class="reasoning" open=${open} onToggle=${(event) => setOpen(event.currentTarget.open)}>
    <summary>
      ${isRunning ? html`<span class="spinner" aria-hidden="true"></span>` : html`<${Icon} name="info" />`}
      <span>${summary(isRunning, milliseconds)}</span>
    </summary>
    ${open && html`<div class="reasoning-text"><${Markdown} text=${text} done=${!isRunning} /></div>`}
  </details>`;
}

function summary(isRunning, milliseconds) {
  if (isRunning) return t("chat.reasoning_now");
  if (typeof milliseconds !== "number") return t("chat.reasoning");
  return t("chat.reasoned_for", { time: duration(Math.max(milliseconds, 100) / 1000) });
}
