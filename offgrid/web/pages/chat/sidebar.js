/** The list of conversations: beside the open one, or on a phone in a drawer. */

import { html, useEffect, useRef, useState } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { IconButton } from "../../parts/button.js";
import { Live } from "../../parts/live.js";
import { HistoryList } from "./history/list.js";

const NARROW = "(max-width: 60rem)";

/** @param {object} props `isOpen`, `onClose`: of the drawer; the others are those of HistoryList */
export function Sidebar({ isOpen, onClose, ...list }) {
  const isNarrow = useNarrow();
  if (!isNarrow) return html`<aside class="chat-side" aria-label=${t("chat.conversations")}><${HistoryList} ...${list} /></aside>`;
  return isOpen && html`<${Drawer} onClose=${onClose}><${HistoryList} ...${list} /><//>`;
}

function Drawer({ onClose, children }) {
  const ref = useRef(null);
  useEffect(() => {
    const before = document.activeElement;
    ref.current.showModal();
    return () => before?.isConnected && before.focus?.();
  }, []);
  const outside = (event) => event.target === ref.current && onClose();
  return html`<dialog class="drawer" ref=${ref} aria-label=${t("chat.conversations")} onClick=${outside}
      onCancel=${(event) => { event.preventDefault(); onClose(); }}>
    <div class="drawer-body">
      <${IconButton} icon="close" label=${t("app.close")} onClick=${onClose} />
      ${children}
      <${Live} />
    </div>
  </dialog>`;
}

function useNarrow() {
  const [isNarrow, setNarrow] = useState(() => matchMedia(NARROW).matches);
  useEffect(() => {
    const query = matchMedia(NARROW);
    const look = () => setNarrow(query.matches);
    query.addEventListener("change", look);
    return () => query.removeEventListener("change", look);
  }, []);
  return isNarrow;
}
