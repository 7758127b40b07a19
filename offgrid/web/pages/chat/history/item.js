/** One conversation of the list, with what can be done with it. */

import { api } from "../../../lib/api.js";
import { classes, html, useState } from "../../../lib/dom.js";
import { date, relative, t } from "../../../lib/i18n.js";
import { href } from "../../../lib/router.js";
import { Button } from "../../../parts/button.js";
import { Dialog, confirm } from "../../../parts/dialog.js";
import { TextField } from "../../../parts/field.js";
import { Icon } from "../../../parts/icon.js";
import { announce } from "../../../parts/live.js";
import { Menu } from "../../../parts/menu.js";
import { toastError } from "../../../parts/toast.js";
import { rememberDraft } from "../settings.js";
import { oneLine, pathOf, tellChange } from "./server.js";
import { exportConversation } from "./transfer.js";

/** What a conversation without a title is called. */
export function titleOf({ title, preview }) {
  return title || preview || t("history.untitled");
}

/** @param {object} props `info`; `entries`: the list; `isSelected`; `onSelect`; `onDeleted` */
export function Item({ info, entries, isSelected, onSelect, onDeleted }) {
  const [isRenaming, setRenaming] = useState(false);
  const title = titleOf(info);
  const open = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // another tab or window
    event.preventDefault();
    onSelect(info.id);
  };
  const rename = (text) => {
    setRenaming(false);
    const name = oneLine(text);
    if (name !== info.title) change(info, entries, { title: name });
  };
  return html`<li class=${classes("history-item", isSelected && "current")}>
    <a class="history-link" href=${href("chat", info.id)} aria-current=${isSelected ? "page" : undefined} onClick=${open}>
      <span class="history-title" dir="auto">${title}</span>
      <span class="history-about">
        ${info.pinned && html`<span class="history-pin"><${Icon} name="pin" /><span class="unseen">${t("history.pinned")}</span></span>`}
        <time dateTime=${new Date(info.updated_at * 1000).toISOString()} title=${date(info.updated_at)}>${relative(info.updated_at)}</time>
      </span>
    </a>
    <${Menu} label=${t("history.actions", { title })} items=${actions(info, { entries, onDeleted, rename: () => setRenaming(true) })} />
    ${isRenaming && html`<${Rename} title=${info.title} onRename=${rename} onClose=${() => setRenaming(false)} />`}
  </li>`;
}

function actions(info, { entries, onDeleted, rename }) {
  const { pinned } = info;
  return [
    { label: t("history.rename"), icon: "edit", run: rename },
    { label: t(pinned ? "history.unpin" : "history.pin"), icon: "pin", run: () => change(info, entries, { pinned: !pinned }) },
    { label: t("history.export_markdown"), icon: "download", run: () => exportConversation(info, "markdown").catch(toastError) },
    { label: t("history.export_json"), icon: "download", run: () => exportConversation(info, "json").catch(toastError) },
    { label: t("history.delete"), icon: "trash", danger: true, run: () => remove(info, entries, onDeleted) },
  ];
}

/** Change fields: in the list at once, and on the server. */
async function change(info, entries, fields) {
  entries.patch(info.id, fields);
  try {
    await api.post(pathOf(info.id), fields);
    tellChange({ id: info.id });
  } catch (error) {
    entries.patch(info.id, { title: info.title, pinned: info.pinned });
    toastError(error);
  }
}

async function remove(info, entries, onDeleted) {
  const title = titleOf(info);
  const isSure = await confirm({
    title: t("history.delete_title"), text: t("history.delete_text", { title, count: info.messages_count }),
    action: t("history.delete"), danger: true,
  });
  if (!isSure) return;
  try {
    await api.delete(pathOf(info.id));
  } catch (error) {
    if (error.status !== 404) return toastError(error); // it may be deleted already
  }
  rememberDraft(info.id, { text: "", images: [] });
  focusBeside(info.id);
  entries.remove(info.id);
  announce(t("history.deleted", { title }));
  onDeleted();
  tellChange({ id: info.id, isDeleted: true });
}

/** Move the focus away from an item that will be gone, to the one after it or before it. */
function focusBeside(id) {
  const links = [...document.querySelectorAll(".history-link")];
  const at = links.findIndex((link) => link.getAttribute("href") === href("chat", id));
  (links[at + 1] ?? links[at - 1])?.focus();
}

function Rename({ title, onRename, onClose }) {
  const [text, setText] = useState(title);
  const give = (event) => {
    event.preventDefault();
    onRename(text);
  };
  const buttons = html`
    <${Button} onClick=${onClose}>${t("app.cancel")}<//>
    <${Button} kind="primary" type="submit" form="history-rename">${t("history.rename")}<//>`;
  return html`<${Dialog} title=${t("history.rename_title")} onClose=${onClose} actions=${buttons}>
    <form id="history-rename" onSubmit=${give}>
      <${TextField} label=${t("history.title")} value=${text} onInput=${setText} maxlength="500" autofocus />
    </form>
  <//>`;
}
