// The frame of a page: its heading, what stands beside it, and its content.

import { html, useEffect, useRef } from "../lib/dom.js";
import { t } from "../lib/i18n.js";

/**
 * @param {object} props `title`; `actions`: buttons beside it; `class`: of the element
 */
export function Page({ title, actions, children, class: more = "" }) {
  const heading = useRef(null);
  useEffect(() => {
    document.title = `${title} · ${t("app.name")}`;
  }, [title]);
  return html`<div class=${`page ${more}`}>
    <header class="page-header">
      <h1 ref=${heading} tabindex="-1">${title}</h1>
      ${actions && html`<div class="page-actions">${actions}</div>`}
    </header>
    ${children}
  </div>`;
}
