// All steps of sampling: for each the setting, what it means, and what it changes.

import { classes, html } from "../../lib/dom.js";
import { number, percent, t } from "../../lib/i18n.js";
import { Bars, share } from "./bars.js";
import { Control } from "./controls.js";
import { MIN_KEEP, STEPS, changed } from "./settings.js";

const ROWS = 10;

export function Steps({ state, change, result, error }) {
  const found = new Map(result?.steps.map((step) => [step.step, step]));
  const set = (control) => (value) => change((old) => ({ settings: changed(old.settings, control, value) }));
  return html`<section aria-labelledby="lab-steps" class="steps">
    <h2 id="lab-steps">${t("lab.steps")}</h2>
    <p class="muted">${t("lab.steps_help")}</p>
    ${STEPS.map((one) => html`<${StepCard} key=${one.step} one=${one} found=${found.get(one.step)} settings=${state.settings}
      set=${set} error=${error} />`)}
    <article class="card step">
      <h3>${t("lab.step.min_keep")}</h3>
      <p>${t("lab.about.min_keep")}</p>
      <${Control} control=${MIN_KEEP} settings=${state.settings} onChange=${set(MIN_KEEP)} error=${error} />
    </article>
  </section>`;
}

function StepCard({ one, found, settings, set, error }) {
  const active = Boolean(found?.active) && !isIdle(found);
  const heading = `lab-step-${one.step}`;
  return html`<article class=${classes("card", "step", active && "active")} aria-labelledby=${heading}>
    <header class="row">
      <h3 id=${heading}>${t(`lab.step.${one.step}`)}</h3>
      ${found && html`<${Verdict} step=${found} />`}
    </header>
    <p>${t(`lab.about.${one.step}`)}</p>
    <div class="controls">
      ${one.controls.map((control) => html`<${Control} key=${control.field} control=${control} settings=${settings} onChange=${set(control)} error=${error} />`)}
    </div>
    ${found?.active && html`<${Effect} step=${found} />`}
  </article>`;
}

/** In a few words: what the step does now, or why it does nothing. */
function Verdict({ step }) {
  if (!step.active) return html`<span class=${classes("badge", step.inactive !== "neutral" && "warn")}>${t(`lab.inactive.${step.inactive}`)}</span>`;
  if (isIdle(step)) return html`<span class="badge">${t("lab.changes_nothing")}</span>`;
  if (!step.removed) return html`<span class="badge good">${t("lab.acts")}</span>`;
  return html`<span class="badge good">${t("lab.removes", { count: step.removed })}</span>`;
}

/** Whether a step that is on finds nothing to change here. */
function isIdle({ removed, tokens, outcomes = [] }) {
  const same = tokens.every(({ before, probability }) => Math.abs(before - probability) < 1e-9);
  return !removed && same && outcomes.every((outcome) => !outcome.removed);
}

/** The distribution before and after a step. */
function Effect({ step }) {
  const caption = t("lab.before_after", { step: t(`lab.step.${step.step}`) });
  return html`<div class="effect">
    <p class="small">${summary(step)}</p>
    <${State} step=${step} />
    ${step.outcomes?.length > 1
      ? step.outcomes.map((outcome) => html`<div key=${outcome.applied} class="outcome">
        <h4>${t(outcome.applied ? "lab.applied" : "lab.not_applied", { chance: percent(outcome.chance) })}</h4>
        <p class="small">${summary(outcome)}</p>
        <div class="table-box"><${Bars} caption=${caption} tokens=${outcome.tokens} removed=${outcome.removed_tokens} most=${ROWS} /></div>
      </div>`)
      : html`<div class="table-box"><${Bars} caption=${caption} tokens=${step.tokens} removed=${step.removed_tokens} most=${ROWS} /></div>`}
  </div>`;
}

function summary({ kept, removed, removed_probability: probability, entropy }) {
  const left = t("lab.kept", { count: kept, entropy: number(entropy, { maximumFractionDigits: 2 }) });
  return removed ? `${left} ${t("lab.removed_total", { count: removed, share: share(probability) })}` : left;
}

const digits = { maximumFractionDigits: 3 };

/** What some steps have besides: the temperature in force, or the state after the answer so far. */
function State({ step }) {
  if (step.step === "temperature" && step.parameters.dynatemp_range > 0) {
    return html`<p class="small">${t("lab.temperature_in_force", { value: number(step.temperature, digits) })}</p>`;
  }
  if (step.step === "mirostat" && step.state) {
    return html`<p class="small">${t("lab.mirostat_state", { mu: number(step.state.mu, digits), tau: number(step.parameters.mirostat_tau, digits) })}</p>`;
  }
  if (step.step === "adaptive_p" && step.state) {
    return html`<p class="small">${t("lab.adaptive_state", {
      mean: share(step.state.mean), target: share(step.parameters.adaptive_target), goal: share(step.state.goal),
    })}</p>`;
  }
  return null;
}
