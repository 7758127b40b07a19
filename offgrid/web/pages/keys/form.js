// The form for a new key, and for changes of one.

import { api } from "../../lib/api.js";
import { html, useState } from "../../lib/dom.js";
import { date, t } from "../../lib/i18n.js";
import { Button } from "../../parts/button.js";
import { Dialog } from "../../parts/dialog.js";
import { Checkbox, Problem, Select, TextField } from "../../parts/field.js";
import { LIMITS, LimitFields, ModelsField, goToFault, toggled } from "../../parts/grant.js";
import { withConsent } from "./consent.js";
import { ENDS, SCOPES, bodyOf, faults, fieldsOf } from "./grant.js";

/**
 * @param {object} props `models`: ids; `changes`: the key that is changed, or nothing for a new one;
 *     `isFirst`: it will be the server's first key; `onDone` receives the key
 */
export function Form({ models, changes = null, isFirst = false, onClose, onDone }) {
  const [fields, setFields] = useState(() => fieldsOf(changes, isFirst));
  const [wrong, setWrong] = useState({});
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const set = (members) => setFields({ ...fields, ...members });
  const submit = async (event) => {
    event.preventDefault();
    const found = faults(fields);
    setWrong(found);
    setError(null);
    if (Object.keys(found).length) return goToFault(event.currentTarget);
    setBusy(true);
    try {
      onDone(await sent(fields, changes));
    } catch (failure) {
      if (failure.name !== "AbortError") placed(failure, setWrong, setError);
    } finally {
      setBusy(false);
    }
  };
  const actions = html`
    <${Button} onClick=${onClose}>${t("app.cancel")}<//>
    <${Button} kind="primary" type="submit" form="grant-form" busy=${busy}>${t(changes ? "keys.save" : "keys.create")}<//>`;
  const title = changes ? t("keys.change_title", { name: changes.name }) : t(isFirst ? "keys.create_first" : "keys.create");
  return html`<${Dialog} title=${title} onClose=${onClose} actions=${actions}>
    <form id="grant-form" class="grant" onSubmit=${submit} novalidate>
      <${Problem} error=${error} />
      ${isFirst && html`<p>${t("keys.first_text")}</p>`}
      ${!changes && html`<${TextField} label=${t("keys.name")} help=${t("keys.name_help")} error=${wrong.name} value=${fields.name}
        onInput=${(name) => set({ name })} maxlength="64" autocomplete="off" autofocus />`}
      <${Scopes} chosen=${fields.scopes} locked=${isFirst ? "admin" : null} error=${wrong.scopes} onChange=${(scopes) => set({ scopes })} />
      <${ModelsField} all=${fields.all} chosen=${fields.models} models=${models} error=${wrong.models} onChange=${set} />
      ${/* After the end of the first key, no client could use the server. */ ""}
      ${!isFirst && html`<${End} fields=${fields} expires=${changes?.expires} isChange=${Boolean(changes)} error=${wrong.date ?? wrong.expires} onChange=${set} />`}
      <${LimitFields} values=${fields.limits} wrong=${wrong} onChange=${(limits) => set({ limits })} />
    </form>
  <//>`;
}

function sent(fields, changes) {
  if (!changes) return api.post("v1/keys", { name: fields.name.trim(), ...bodyOf(fields) });
  return withConsent((query) => api.post(`v1/keys/${changes.id}${query}`, bodyOf(fields)));
}

/** Show an error of the server at its field, if the form has that. */
function placed(error, setWrong, setError) {
  const field = error.param?.split(/[.[]/).find((part) => ["name", "scopes", "models", "expires", ...LIMITS].includes(part));
  const place = error.param?.startsWith("limits.") ? error.param.slice("limits.".length) : field;
  if (place) setWrong({ [place]: error.message });
  else setError(error);
}

function Scopes({ chosen, locked, error, onChange }) {
  const all = chosen.has("admin");
  return html`<fieldset class=${error ? "wrong" : ""}>
    <legend>${t("keys.scopes")}</legend>
    ${SCOPES.map((scope) => html`<${Checkbox} key=${scope} label=${t(`keys.scope.${scope}`)} help=${t(`keys.scope_help.${scope}`)}
      checked=${chosen.has(scope) || all} disabled=${scope === locked || (all && scope !== "admin")}
      onChange=${(isIn) => onChange(toggled(chosen, scope, isIn))} />`)}
    ${error && html`<p class="error" role="alert">${error}</p>`}
  </fieldset>`;
}

function End({ fields, expires, isChange, error, onChange }) {
  const keep = { value: "keep", label: expires ? t("keys.keep_end", { time: date(expires) }) : t("keys.keep_no_end") };
  const options = [...(isChange ? [keep] : []), ...ENDS.map((end) => ({ value: end, label: t(`keys.end.${end}`) }))];
  return html`
    <${Select} label=${t("keys.end_label")} value=${fields.end} options=${options} error=${fields.end !== "date" && error} onChange=${(end) => onChange({ end })} />
    ${fields.end === "date" && html`<${TextField} type="date" label=${t("keys.end_date")} help=${t("keys.end_date_help")} error=${error} value=${fields.date} onInput=${(day) => onChange({ date: day })} />`}`;
}
