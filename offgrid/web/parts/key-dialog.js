// The question for the key, when the server needs one.

import { html, useState } from "../lib/dom.js";
import { t } from "../lib/i18n.js";
import { keyQuestion } from "../lib/key.js";
import { useStore } from "../lib/store.js";
import { Button } from "./button.js";
import { Dialog } from "./dialog.js";
import { Checkbox, Problem, TextField } from "./field.js";

/** Shows the question of `askForKey`; once on the page. */
export function KeyDialog() {
  const question = useStore(keyQuestion);
  return question && html`<${Form} question=${question} />`;
}

function Form({ question }) {
  const [key, setKey] = useState("");
  const [keep, setKeep] = useState(true);
  const give = (event) => {
    event.preventDefault();
    if (key.trim()) question.answer(key.trim(), keep);
  };
  const actions = html`
    <${Button} onClick=${() => question.answer(null)}>${t("app.cancel")}<//>
    <${Button} kind="primary" type="submit" form="key-form" disabled=${!key.trim()}>${t("key.use")}<//>`;
  return html`<${Dialog} title=${t("key.title")} onClose=${() => question.answer(null)} actions=${actions}>
    <form id="key-form" onSubmit=${give}>
      <${Problem} error=${question.message} />
      <p>${t("key.text")}</p>
      <${TextField} label=${t("key.label")} value=${key} onInput=${setKey} type="password" autocomplete="current-password" autofocus spellcheck=${false} />
      <${Checkbox} label=${t("key.keep")} help=${t("key.keep_help")} checked=${keep} onChange=${setKeep} />
    </form>
  <//>`;
}
