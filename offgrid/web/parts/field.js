// Fields of forms: a label, help, and the error that belongs to the field.

import { classes, html, useId } from "../lib/dom.js";
import { Icon } from "./icon.js";

/**
 * A labelled field. `children` is a function that receives {id, "aria-describedby", "aria-invalid"}
 * for its control.
 */
export function Field({ label, help, error, inline = false, children }) {
  const id = useId();
  const described = [help && `${id}-help`, error && `${id}-error`].filter(Boolean).join(" ") || undefined;
  return html`<div class=${classes("field", inline && "inline", error && "wrong")}>
    <label for=${id}>${label}</label>
    ${children({ id, "aria-describedby": described, "aria-invalid": error ? "true" : undefined })}
    ${help && html`<p class="help" id=${`${id}-help`}>${help}</p>`}
    ${error && html`<p class="error" id=${`${id}-error`}>${error}</p>`}
  </div>`;
}

/** A field for a line of text. `onInput` receives the text. */
export function TextField({ label, help, error, value, onInput, type = "text", ...rest }) {
  return html`<${Field} label=${label} help=${help} error=${error}>
    ${(ids) => html`<input type=${type} value=${value} onInput=${(event) => onInput(event.currentTarget.value)} dir="auto" ...${ids} ...${rest} />`}
  <//>`;
}

/** A field for several lines of text. */
export function TextArea({ label, help, error, value, onInput, rows = 4, ...rest }) {
  return html`<${Field} label=${label} help=${help} error=${error}>
    ${(ids) => html`<textarea rows=${rows} value=${value} onInput=${(event) => onInput(event.currentTarget.value)} dir="auto" ...${ids} ...${rest}></textarea>`}
  <//>`;
}

/** A choice among options [{value, label, disabled}]. */
export function Select({ label, help, error, value, options, onChange, ...rest }) {
  return html`<${Field} label=${label} help=${help} error=${error}>
    ${(ids) => html`<select value=${value} onChange=${(event) => onChange(event.currentTarget.value)} ...${ids} ...${rest}>
      ${options.map((one) => html`<option key=${one.value} value=${one.value} disabled=${one.disabled} selected=${one.value === value}>${one.label}</option>`)}
    </select>`}
  <//>`;
}

/** A switch with a label. */
export function Checkbox({ label, help, checked, onChange, ...rest }) {
  const id = useId();
  return html`<div class="field check">
    <input type="checkbox" id=${id} checked=${checked} aria-describedby=${help ? `${id}-help` : undefined} onChange=${(event) => onChange(event.currentTarget.checked)} ...${rest} />
    <label for=${id}>${label}</label>
    ${help && html`<p class="help" id=${`${id}-help`}>${help}</p>`}
  </div>`;
}

/** A number with a slider and a field. `onInput` receives a number. */
export function Slider({ label, help, error, value, min, max, step, onInput, ...rest }) {
  const give = (event) => {
    const given = event.currentTarget.valueAsNumber;
    if (Number.isFinite(given)) onInput(given);
  };
  return html`<${Field} label=${label} help=${help} error=${error}>
    ${(ids) => html`<div class="slider">
      <input type="range" min=${min} max=${max} step=${step} value=${value} onInput=${give} aria-label=${label} ...${rest} />
      <input type="number" min=${min} max=${max} step=${step} value=${value} onInput=${give} ...${ids} ...${rest} />
    </div>`}
  <//>`;
}

/** The reason why something failed, with a drawing. Shows nothing without one. */
export function Problem({ error, children }) {
  if (!error) return null;
  return html`<div class="problem" role="alert"><${Icon} name="alert" /><span dir="auto">${error.message ?? error}</span>${children}</div>`;
}
