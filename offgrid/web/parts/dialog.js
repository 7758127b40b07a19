// Dialogs: the browser's own element keeps the focus inside and closes with Escape.

import { html, useEffect, useId, useRef } from "../lib/dom.js";
import { t } from "../lib/i18n.js";
import { Store, useStore } from "../lib/store.js";
import { Button, IconButton } from "./button.js";
import { Live } from "./live.js";
import { Toasts } from "./toast.js";

/**
 * A dialog that is open as long as it is rendered.
 * @param {object} props `title`; `onClose`: called for Escape and the close button; `actions`:
 *     buttons at its end; `wide`: for forms with much in them
 */
export function Dialog({ title, onClose, actions, wide = false, children }) {
  const ref = useRef(null);
  const id = useId();
  useEffect(() => {
    const before = document.activeElement;
    ref.current.showModal();
    return () => before?.isConnected && before.focus?.();
  }, []);
  const cancel = (event) => {
    if (event.target !== ref.current) return; // a choice of files in the dialog was given up
    event.preventDefault(); // the owner decides whether it closes
    onClose();
  };
  return html`<dialog ref=${ref} class=${wide ? "dialog wide" : "dialog"} aria-labelledby=${id} onCancel=${cancel}>
    <header>
      <h2 id=${id}>${title}</h2>
      <${IconButton} icon="close" label=${t("app.close")} onClick=${onClose} />
    </header>
    <div class="dialog-body">${children}</div>
    ${actions && html`<footer>${actions}</footer>`}
    <${Live} /><${Toasts} />
  </dialog>`;
}

const question = new Store(null);

/**
 * Ask a question with two answers.
 * @returns {Promise<boolean>} whether the user chose the action
 */
export function confirm({ title, text, action, danger = false }) {
  question.value?.answer(false);
  return new Promise((resolve) => {
    question.set({
      title, text, action, danger,
      answer(yes) {
        question.set(null);
        resolve(yes);
      },
    });
  });
}

/** Shows the question of `confirm`; once on the page. */
export function Confirmation() {
  const asked = useStore(question);
  if (!asked) return null;
  const actions = html`
    <${Button} onClick=${() => asked.answer(false)}>${t("app.cancel")}<//>
    <${Button} kind=${asked.danger ? "danger" : "primary"} onClick=${() => asked.answer(true)}>${asked.action}<//>`;
  return html`<${Dialog} title=${asked.title} onClose=${() => asked.answer(false)} actions=${actions}>
    <p>${asked.text}</p>
  <//>`;
}
