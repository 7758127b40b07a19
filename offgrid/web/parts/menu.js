// A button that opens a list of actions.

import { classes, html, useEffect, useRef, useState } from "../lib/dom.js";
import { IconButton } from "./button.js";
import { Icon } from "./icon.js";

/**
 * @param {object} props `label`; `icon`; `items`: [{label, icon, run, danger, disabled}], false and
 *     null are left out
 */
export function Menu({ label, icon = "more", items }) {
  const [open, setOpen] = useState(false);
  const root = useRef(null);
  useEffect(() => {
    if (!open) return undefined;
    root.current.querySelector('[role="menuitem"]')?.focus();
    const outside = (event) => root.current?.contains(event.target) || setOpen(false);
    addEventListener("pointerdown", outside);
    return () => removeEventListener("pointerdown", outside);
  }, [open]);
  const close = () => {
    setOpen(false);
    root.current.querySelector("button").focus();
  };
  const run = (item) => {
    if (item.disabled) return; // it can be reached, because it says why
    close();
    item.run();
  };
  const move = (event) => {
    if (event.key === "Escape" && open) {
      event.preventDefault(); // a dialog around it stays open
      event.stopPropagation();
      close();
    }
    if (event.key === "Tab" && open) close(); // Tab goes on from the button
    const entries = [...root.current.querySelectorAll('[role="menuitem"]')];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!open || !step) return;
    event.preventDefault();
    const at = entries.indexOf(document.activeElement);
    entries[(at + step + entries.length) % entries.length].focus();
  };
  return html`<div class="menu" ref=${root} onKeyDown=${move}>
    <${IconButton} icon=${icon} label=${label} aria-haspopup="menu" aria-expanded=${open} onClick=${() => setOpen(!open)} />
    ${open && html`<div class="menu-list" role="menu" aria-label=${label}>
      ${items.filter(Boolean).map((item) => html`<button type="button" role="menuitem" tabindex="-1" key=${item.label}
          class=${classes(item.danger && "danger")} aria-disabled=${item.disabled ? "true" : undefined}
          onClick=${() => run(item)}>
        ${item.icon && html`<${Icon} name=${item.icon} />`}<span>${item.label}</span>
      </button>`)}
    </div>`}
  </div>`;
}
