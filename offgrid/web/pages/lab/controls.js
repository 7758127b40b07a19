// The control of one setting: a slider with a number, a switch, a choice, lines, or biases.

import { html } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { Button, IconButton } from "../../parts/button.js";
import { Checkbox, Field, Select, Slider, TextArea, TextField } from "../../parts/field.js";
import { fieldOf, valueOf } from "./settings.js";

/**
 * @param {object} props `control`: see settings.js; `settings`; `onChange(value)`; `error`: the last
 *     error of the server, shown if it is about this field
 */
export function Control({ control, settings, onChange, error }) {
  const value = valueOf(settings, control);
  const label = t(`lab.field.${control.field}`);
  const own = error && fieldOf(error.param) === control.field ? error.message : undefined;
  const given = { label, value, error: own };
  if (control.kind === "switch") {
    return html`<${Checkbox} label=${label} checked=${value} onChange=${onChange} /><${Wrong} error=${own} />`;
  }
  if (control.kind === "choice") {
    const options = control.options.map((one) => ({ value: String(one), label: t(`lab.option.${control.field}.${one}`) }));
    return html`<${Select} ...${given} value=${String(value)} options=${options} onChange=${(chosen) => onChange(Number(chosen))} />`;
  }
  if (control.kind === "lines") {
    return html`<${TextArea} ...${given} rows=${4} value=${value.map(escaped).join("\n")} help=${t("lab.lines_help")} spellcheck=${false}
      onInput=${(text) => onChange(text.split("\n").filter(Boolean).map(unescaped))} />`;
  }
  if (control.kind === "biases") return html`<${Biases} value=${value} onChange=${onChange} error=${own} />`;
  return html`<${Slider} ...${given} min=${control.min} max=${control.max} step=${control.step} onInput=${onChange} />`;
}

function Wrong({ error }) {
  return error ? html`<div class="field wrong"><p class="error" role="alert">${error}</p></div>` : null;
}

function escaped(text) {
  return text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll("\t", "\\t");
}

function unescaped(text) {
  return text.replace(/\\(.)/g, (whole, letter) => ({ n: "\n", t: "\t", "\\": "\\" })[letter] ?? whole);
}

function Biases({ value, onChange, error }) {
  const replace = (index, part) => onChange(value.map((one, at) => (at === index ? { ...one, ...part } : one)));
  return html`<div class="biases">
    ${value.map((bias, index) => html`<fieldset key=${index} class="bias">
      <legend class="unseen">${t("lab.bias_of", { token: bias.token || "?" })}</legend>
      <${TextField} label=${t("lab.bias_token")} value=${bias.token} onInput=${(token) => replace(index, { token })} spellcheck=${false} />
      ${!bias.banned && html`<${Slider} label=${t("lab.bias_value")} min=${-100} max=${100} step=${0.5} value=${bias.value} onInput=${(number) => replace(index, { value: number })} />`}
      <div class="row">
        <${Checkbox} label=${t("lab.bias_ban")} checked=${bias.banned} onChange=${(banned) => replace(index, { banned })} />
        <${IconButton} icon="trash" label=${t("lab.bias_remove", { token: bias.token || "?" })} onClick=${() => onChange(value.filter((_, at) => at !== index))} />
      </div>
    </fieldset>`)}
    <${Wrong} error=${error} />
    <div class="row"><${Button} icon="plus" onClick=${() => onChange([...value, { token: "", value: 5, banned: false }])}>${t("lab.bias_add")}<//></div>
  </div>`;
}

/** The seed: fixed to a number, or free. */
export function Seed({ seed, used, onChange, error }) {
  const fixed = seed !== null;
  const own = error && fieldOf(error.param) === "seed" ? error.message : undefined;
  return html`<div class="seed">
    <${Checkbox} label=${t("lab.seed_fixed")} help=${t("lab.seed_help")} checked=${fixed} onChange=${(on) => onChange(on ? used ?? 0 : null)} />
    ${fixed && html`<${Field} label=${t("lab.seed")} error=${own}>
      ${(ids) => html`<input type="number" step="1" value=${seed} ...${ids}
        onInput=${(event) => Number.isSafeInteger(event.currentTarget.valueAsNumber) && onChange(event.currentTarget.valueAsNumber)} />`}
    <//>`}
    ${!fixed && used !== undefined && html`<p class="small muted">${t("lab.seed_used", { seed: String(used) })}</p>`}
  </div>`;
}
