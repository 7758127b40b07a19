/** Tool calls of an answer, and the form with which the user answers them. */

import { html, useState } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { Button } from "../../parts/button.js";
import { TextArea } from "../../parts/field.js";
import { Icon } from "../../parts/icon.js";
import { Code } from "./markdown.js";
import { textOf } from "./request.js";

/**
 * Arguments as JSON that can be read; as they are while they are not whole. Pure.
 * @param {any} text what another client has stored need not be a text
 */
export function formatArguments(text) {
  if (typeof text !== "string") return text === undefined || text === null ? "" : JSON.stringify(text, null, 2);
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** The function of a call: {name, arguments}. What another client has stored may lack it. Pure. */
export function functionOf(call) {
  const { name, arguments: given } = call.function ?? {};
  return { name: typeof name === "string" ? name : "", arguments: formatArguments(given) };
}

/** The calls of an answer. */
export function Calls({ calls }) {
  return html`<ul class="calls" aria-label=${t("chat.calls")}>
    ${calls.map((call, index) => html`<li key=${call.id || index} class="call">
      <p class="call-name"><${Icon} name="tool" /><span>${t("chat.calls_function")} <code><bdi>${functionOf(call).name}</bdi></code></span></p>
      <${Code} text=${functionOf(call).arguments} language="json" />
    </li>`)}
  </ul>`;
}

/** The result of a call, which a message of the role `tool` holds. */
export function Result({ message, name }) {
  return html`<details class="result">
    <summary><${Icon} name="tool" /><span>${name ? t("chat.result_of", { name }) : t("chat.result")}</span></summary>
    <${Code} text=${formatArguments(textOf(message.content))} language="json" />
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
    ${calls.map((call) => html`<${TextArea} key=${call.id} rows=${3} class="mono"
      label=${t("chat.result_of", { name: functionOf(call).name })} value=${results[call.id] ?? ""}
      onInput=${(value) => setResults({ ...results, [call.id]: value })} />`)}
    <div class="row"><${Button} kind="primary" icon="send" type="submit">${t("chat.give_results")}<//></div>
  </form>`;
}
