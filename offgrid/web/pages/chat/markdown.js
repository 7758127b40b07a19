/** Components for texts of models and users. */

import { html, useLayoutEffect, useRef } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { MarkdownView } from "../../lib/markdown.js";
import { codeBlock, codeText } from "../../lib/markdown/code.js";
import { pieces } from "../../lib/markdown/blocks.js";
import { copy } from "../../parts/copy.js";

function labels() {
  return {
    copy: t("app.copy"),
    copied: t("app.copied"),
    code: t("chat.code"),
    table: t("chat.table"),
    image: t("chat.image"),
    onCopy: copy,
  };
}

/**
 * A text as Markdown.
 * @param {{text: string, done?: boolean}} props `done`: no more comes
 */
export function Markdown({ text, done = true }) {
  const root = useRef(null);
  const view = useRef(null);
  useLayoutEffect(() => {
    view.current = new MarkdownView(root.current, labels());
    return () => view.current.destroy();
  }, []);
  useLayoutEffect(() => view.current.update(text, done), [text, done]);
  return html`<div class="markdown" ref=${root}></div>`;
}

/** A text as it is, in pieces so that a long one does not stop the page. */
export function PlainText({ text }) {
  const parts = [...pieces(text)].map(([start, end]) => text.slice(start, end));
  return html`<div class="markdown user-text" dir="auto">
    ${parts.map((part, index) => html`<div key=${index} class="plain-block" dir="auto">${part}</div>`)}
  </div>`;
}

/**
 * Code, with a copy button.
 * @param {{text: string, language: string}} props
 */
export function Code({ text, language }) {
  const root = useRef(null);
  const block = useRef(null);
  useLayoutEffect(() => {
    block.current = codeBlock("", language, labels());
    root.current.replaceChildren(block.current.element);
  }, [language]);
  useLayoutEffect(() => block.current.update(text, true), [text, language]);
  const onClick = async ({ target }) => {
    const button = target.closest("button.copy-code");
    if (!button || !(await copy(codeText(button.closest("figure"))))) return;
    button.textContent = t("app.copied");
    setTimeout(() => (button.textContent = t("app.copy")), 1_500);
  };
  return html`<div ref=${root} onClick=${onClick}></div>`;
}
