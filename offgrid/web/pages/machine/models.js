// The loaded models and their slots.

import { classes, html } from "../../lib/dom.js";
import { duration, number, percent, t } from "../../lib/i18n.js";
import { Bar } from "./bar.js";
import { rate } from "./machine.js";

/** Each loaded model with its slots, and the models that were used before. */
export function Models({ stats, slots }) {
  const loaded = stats.models.filter(({ state }) => state !== "unloaded");
  return html`<section class="card">
    <h2>${t("machine.models")}</h2>
    ${loaded.length === 0 && html`<p class="muted">${t("machine.no_models")}</p>`}
    ${loaded.map((model) => html`<${Model} key=${model.id} model=${model} slots=${slots.filter((slot) => slot.model === model.id)} />`)}
  </section>`;
}

function Model({ model, slots }) {
  const wait = model.latency.first_token;
  const facts = [
    t("machine.queue", { waiting: model.waiting, places: model.queue }),
    t("machine.model_speed", { prompt: rate(model.throughput.prompt), completion: rate(model.throughput.completion) }),
    wait && t("machine.first_token", { time: shortTime(wait.p50) }),
    model.cells.total > 0 && t("machine.cells", { share: percent(model.cells.fill, 0) }),
  ].filter(Boolean);
  return html`<article class="model stack" aria-label=${model.id}>
    <div class="row">
      <h3 dir="auto">${model.id}</h3>
      <span class=${classes("badge", model.state === "ready" ? "good" : model.state === "failed" ? "danger" : "warn")}>${t(`machine.state.${model.state}`)}</span>
    </div>
    <ul class="facts muted small">${facts.map((fact) => html`<li key=${fact}>${fact}</li>`)}</ul>
    ${slots.length > 0 && html`<ol class="slots">${slots.map((slot) => html`<${Slot} key=${slot.slot} slot=${slot} />`)}</ol>`}
  </article>`;
}

/** A time that may be a few milliseconds. */
function shortTime(seconds) {
  if (seconds >= 1) return duration(seconds);
  return number(Math.ceil(1000 * seconds), { style: "unit", unit: "millisecond", unitDisplay: "short" });
}

function Slot({ slot }) {
  const name = t("machine.slot", { number: number(slot.slot + 1) });
  const text = t("machine.held", { held: slot.held, context: slot.context });
  return html`<li class=${`slot ${slot.state}`}>
    <div class="row">
      <b>${name}</b>
      <span class=${classes("badge", slot.state !== "idle" && "good")}>${t(`machine.slot_state.${slot.state}`)}</span>
      ${slot.key && html`<span class="badge" dir="auto" title=${t("machine.slot_key")}>${slot.key}</span>`}
    </div>
    <${Bar} value=${slot.context && slot.held / slot.context} label=${t("machine.slot_context", { name })} text=${text} />
    <p class="small muted">${text}</p>
    ${slot.state !== "idle" && html`<p class="small">${t("machine.sequence", { prompt: slot.prompt, cached: slot.cached, completion: slot.completion })}</p>`}
  </li>`;
}
