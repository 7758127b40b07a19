/** The list of conversations: search, rename, pin, delete, export and import. */

import { html, useEffect, useMemo, useRef, useState } from "../../../lib/dom.js";
import { t } from "../../../lib/i18n.js";
import { useStore } from "../../../lib/store.js";
import { Button } from "../../../parts/button.js";
import { Problem } from "../../../parts/field.js";
import { Icon } from "../../../parts/icon.js";
import { announce } from "../../../parts/live.js";
import { Menu } from "../../../parts/menu.js";
import { useStyle } from "../../../parts/style.js";
import { toast, toastError } from "../../../parts/toast.js";
import { Entries } from "./entries.js";
import { Item } from "./item.js";
import { exportAll, importFile } from "./transfer.js";

const STYLE = new URL("./list.css", import.meta.url).href;

/**
 * The list.
 * @param {object} props `selected`: id of the open conversation, or null; `onSelect(id)`: the user
 *     chose one; `onNew()`: the user wants a new one, or has deleted the open one
 */
export function HistoryList({ selected, onSelect, onNew }) {
  const entries = useMemo(() => new Entries(), []);
  useEffect(() => entries.open(), [entries]);
  const { items, more, stored, busy, error } = useStore(entries.state);
  const [query, setQuery] = useState("");
  const isReady = useStyle(STYLE);
  const search = (text) => {
    setQuery(text);
    entries.search(text.trim());
  };
  if (!isReady) return null;
  return html`<div class="history">
    <div class="history-top">
      <${Button} icon="plus" kind="primary" onClick=${onNew}>${t("history.new")}<//>
      ${stored && html`<${Files} isEmpty=${!items?.length} />`}
    </div>
    ${stored ? html`<${Search} query=${query} onSearch=${search} />` : html`<p class="history-note">${t("history.off")}</p>`}
    <${Problem} error=${error}><${Button} onClick=${() => entries.refresh()}>${t("app.again")}<//><//>
    <${Found} items=${items} query=${query} busy=${busy} />
    <nav class="history-list" aria-label=${t("history.list")} aria-busy=${busy} onKeyDown=${moveFocus}>
      <ul>${items?.map((info) => html`<${Item} key=${info.id} info=${info} entries=${entries} isSelected=${info.id === selected}
        onSelect=${onSelect} onDeleted=${() => info.id === selected && onNew()} />`)}</ul>
      ${more && html`<${Button} busy=${busy} onClick=${() => entries.readMore()}>${t("history.more")}<//>`}
    </nav>
  </div>`;
}

function Search({ query, onSearch }) {
  return html`<div class="history-search" role="search">
    <${Icon} name="search" />
    <input type="search" value=${query} maxlength="500" aria-label=${t("history.search")} placeholder=${t("history.search")} dir="auto"
      onInput=${(event) => onSearch(event.currentTarget.value)} />
  </div>`;
}

/** Says when nothing is found, and tells screen readers how much was found. */
function Found({ items, query, busy }) {
  const said = useRef("");
  useEffect(() => {
    if (busy || !items || !query.trim() || said.current === query) return;
    said.current = query;
    announce(t("history.found", { count: items.length }));
  }, [items, query, busy]);
  if (!items || items.length || busy) return null;
  return html`<p class="history-note">${t(query.trim() ? "history.none_found" : "history.empty")}</p>`;
}

/** The menu with files: import and export of everything. */
function Files({ isEmpty }) {
  const items = [
    { label: t("history.import"), icon: "upload", run: chooseFiles },
    { label: t("history.export_all"), icon: "download", disabled: isEmpty, run: () => exportAll().catch(toastError) },
  ];
  return html`<${Menu} label=${t("history.files")} items=${items} />`;
}

/** Let the user choose files, and import them one after the other. */
function chooseFiles() {
  const input = document.createElement("input");
  Object.assign(input, { type: "file", multiple: true, accept: ".json,.md,.markdown,application/json,text/markdown" });
  input.addEventListener("change", async () => {
    for (const file of input.files) await takeOne(file);
  });
  input.click();
}

async function takeOne(file) {
  try {
    const { created, changed, messages } = await importFile(file);
    toast(created || changed ? t("history.imported", { count: created + changed, messages }) : t("history.nothing_new"));
  } catch (error) {
    if (error instanceof SyntaxError) toast(t("history.not_json", { name: file.name }), { kind: "error" });
    else if (error.isAway) toastError(error);
    else toast(t("history.not_imported", { name: file.name, reason: error.message }), { kind: "error" });
  }
}

/** The arrow keys go from one conversation to the next. */
function moveFocus(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || !event.target.matches(".history-link")) return;
  const links = [...event.currentTarget.querySelectorAll(".history-link")];
  const next = links[links.indexOf(event.target) + step];
  if (!next) return;
  event.preventDefault();
  next.focus();
}
