/** Tool calls of an answer, and the form with which the user answers them. */

import { html, useState } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { Button } from "../../parts/button.js";
import { TextArea } from "../../parts/field.js";
import { Icon } from "../../parts/icon.js";
import { Code } from "./markdown.js";

/** Arguments as JSON that can be read; as they are while they are not whole. Pure. */
export function formatArguments(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** The calls of an answer. */
export function Calls({ calls }) {
  return html`<ul class="calls" aria-label=${t("chat.calls")}>
    ${calls.map((call, index) => html`<li key=${call.id || index} class="call">
      <p class="call-name"><${Icon} name="tool" /><span>${t("chat.calls_function")} <code><bdi>${call.function.name}</bdi></code></span></p>
      <${Code} text=${formatArguments(call.function.arguments)} language="json" />
    </li>`)}
  </ul>`;
}

/** The result of a call, which a message of the role `tool` holds. */
export function Result({ message, name }) {
  return html`<details class="result">
    <summary><${Icon} name="tool" /><span>${name ? t("chat.result_of", { name }) : t("chat.result")}</span></summary>
    <${Code} text=${formatArguments(message.content ?? "")} language="json" />
  </details>`;
}

/**
 * Asks the user for the results of calls.
 * @param {{calls: object[], onGive: (results: [string, string][]) => void}} props
 */
export function ResultForm({ calls, onGive }) {
  const [results, setResults] = useState({});
  const give = (event) => {
    event.preventDefault();
    onGive(calls.map(({ id }) => [id, results[id] ?? ""]));
  };
  return html`<form class="card result-form" onSubmit=${give}>
    <p class="muted">${t("chat.result_help")}</p>
    ${calls.map(({ id, function: { name } }) => html`<${TextArea} key=${id} rows=${3} class="mono"
      label=${t("chat.result_of", { name })} value=${results[id] ?? ""}
      onInput=${(value) => setResults({ ...results, [id]: value })} />`)}
    <div class="row"><${Button} kind="primary" icon="send" type="submit">${t("chat.give_results")}<//></div>
  </form>`;
}
