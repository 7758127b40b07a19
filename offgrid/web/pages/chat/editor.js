/** The form in which a message of the user is changed; the changed one becomes a branch. */

import { html, useEffect, useRef, useState } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { Button } from "../../parts/button.js";
import { isInput } from "./composer.js";
import { contentOf, imagesOf, textOf } from "./request.js";

export function Editor({ message, onSend, onDone }) {
  const [text, setText] = useState(textOf(message.content));
  const area = useRef(null);
  const images = imagesOf(message.content);
  useEffect(() => {
    area.current.focus();
    area.current.setSelectionRange(text.length, text.length);
  }, []);
  const send = () => {
    if (text.trim() || images.length) onSend(contentOf(text, images));
  };
  const press = (event) => {
    if (event.key === "Escape") onDone();
    else if (event.key === "Enter" && !event.shiftKey && !isInput(event)) send();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return html`<div class="editor">
    <textarea ref=${area} rows="3" dir="auto" aria-label=${t("chat.edit_label")} value=${text}
      onInput=${(event) => setText(event.currentTarget.value)} onKeyDown=${press}></textarea>
    <p class="muted small">${t("chat.edit_help")}</p>
    <div class="row">
      <${Button} kind="primary" icon="send" onClick=${send} disabled=${!text.trim() && !images.length}>${t("chat.send")}<//>
      <${Button} onClick=${onDone}>${t("app.cancel")}<//>
    </div>
  </div>`;
}
