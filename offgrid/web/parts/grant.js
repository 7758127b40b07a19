// Which models somebody may use, and how much: fields that forms for keys and for machines share.

import { html } from "../lib/dom.js";
import { number, t } from "../lib/i18n.js";
import { Checkbox, TextField } from "./field.js";

export const LIMITS = ["requests_per_minute", "tokens_per_minute", "concurrent_requests", "max_tokens"];
const MOST = 1e9;

/** What the form shows for limits of the API: {name: text}. */
export function limitFields(limits = {}) {
  return Object.fromEntries(LIMITS.map((name) => [name, limits?.[name] == null ? "" : String(limits[name])]));
}

/** Return what is wrong with the fields of limits: {name: text}; empty if nothing is. */
export function limitFaults(fields) {
  const found = {};
  for (const [name, text] of Object.entries(fields)) {
    const value = Number(text);
    if (text.trim() && !(Number.isInteger(value) && value >= 1 && value <= MOST)) {
      found[name] = t("keys.fault.limit", { most: MOST });
    }
  }
  return found;
}

/** Return the limits of the API for the fields; those without a number are left out. */
export function limitsOf(fields) {
  return Object.fromEntries(Object.entries(fields).filter(([, text]) => text.trim()).map(([name, text]) => [name, Number(text)]));
}

/** The limits that are set, in words. */
export function limitTexts(limits) {
  return LIMITS.filter((name) => limits[name] !== null).map((name) => t(`keys.limit_text.${name}`, { count: limits[name], number: number(limits[name]) }));
}

/** Show the first fault to people who see it and to those who hear it. */
export function goToFault(form) {
  requestAnimationFrame(() => form.querySelector(".wrong input, .wrong select")?.focus());
}

/** Return a set with a member, or without it. */
export function toggled(set, member, isIn) {
  const next = new Set(set);
  if (isIn) next.add(member);
  else next.delete(member);
  return next;
}

/**
 * All models, or a choice of them.
 * @param {object} props `all`; `chosen`: a set of ids; `models`: ids that can be chosen; `error`;
 *     `onChange` receives {all} or {models}
 */
export function ModelsField({ all, chosen, models, error, onChange }) {
  const listed = [...new Set([...models, ...chosen])];
  return html`<fieldset class=${error ? "wrong" : ""}>
    <legend>${t("keys.models")}</legend>
    <${Checkbox} label=${t("keys.all_models")} checked=${all} onChange=${(isAll) => onChange({ all: isAll })} />
    ${!all && listed.map((model) => html`<${Checkbox} key=${model} label=${model} checked=${chosen.has(model)}
      onChange=${(isIn) => onChange({ models: toggled(chosen, model, isIn) })} />`)}
    ${error && html`<p class="error" role="alert">${error}</p>`}
  </fieldset>`;
}

/** @param {object} props `values`: of `limitFields`; `wrong`: {name: text}; `onChange` receives the values */
export function LimitFields({ values, wrong, onChange }) {
  const isOpen = Object.values(values).some(Boolean) || LIMITS.some((name) => wrong[name]);
  return html`<details open=${isOpen}>
    <summary>${t("keys.limits")}</summary>
    <div class="limits">${LIMITS.map((name) => html`<${TextField} key=${name} type="number" inputmode="numeric" min="1" label=${t(`keys.limit.${name}`)}
      error=${wrong[name]} placeholder=${t("keys.no_limit")} value=${values[name]} onInput=${(text) => onChange({ ...values, [name]: text })} />`)}</div>
  </details>`;
}
