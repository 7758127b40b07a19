// Tabs, after the pattern of the ARIA Authoring Practices: arrow keys move, Tab enters the panel.

import { html, useId, useRef } from "../lib/dom.js";

/**
 * @param {object} props `label`; `tabs`: [{id, label}]; `chosen`: an id; `onChoose`; `children`: the
 *     panel of the chosen tab
 */
export function Tabs({ label, tabs, chosen, onChoose, children }) {
  const base = useId();
  const list = useRef(null);
  const move = (event) => {
    const forward = document.documentElement.dir === "rtl" ? "ArrowLeft" : "ArrowRight";
    const step = event.key === forward ? 1 : ["ArrowLeft", "ArrowRight"].includes(event.key) ? -1 : 0;
    if (!step) return;
    event.preventDefault();
    const at = tabs.findIndex(({ id }) => id === chosen);
    const next = tabs[(at + step + tabs.length) % tabs.length];
    onChoose(next.id);
    list.current.querySelector(`[data-tab="${CSS.escape(next.id)}"]`).focus();
  };
  return html`<div class="tabs">
    <div role="tablist" aria-label=${label} ref=${list} onKeyDown=${move}>
      ${tabs.map(({ id, label: text }) => html`<button type="button" role="tab" key=${id} id=${`${base}-${id}`} data-tab=${id}
        aria-selected=${id === chosen} aria-controls=${`${base}-panel`} tabindex=${id === chosen ? 0 : -1}
        onClick=${() => onChoose(id)}>${text}</button>`)}
    </div>
    <div role="tabpanel" id=${`${base}-panel`} aria-labelledby=${`${base}-${chosen}`} tabindex="0">${children}</div>
  </div>`;
}
