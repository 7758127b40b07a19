// The sampling lab: what each setting does to the distribution of the next token.

import { html, useState } from "../../lib/dom.js";
import { number, t } from "../../lib/i18n.js";
import { labelOf } from "../../lib/owner.js";
import { Button } from "../../parts/button.js";
import { Problem, Select, TextArea } from "../../parts/field.js";
import { announce } from "../../parts/live.js";
import { Page } from "../../parts/page.js";
import { useStyle } from "../../parts/style.js";
import { append, visible } from "./answer.js";
import { Bars } from "./bars.js";
import { Code } from "./code.js";
import { Seed } from "./controls.js";
import { useDistribution, useLabState, useModels } from "./data.js";
import { Samples } from "./samples.js";
import { FIELDS, fieldOf, turnedOff } from "./settings.js";
import { Steps } from "./steps.js";
import { Strip } from "./strip.js";

const SHOWN_AT_FIELDS = new Set([...FIELDS, "seed", "prompt", "messages", "model"]);

export default function Lab() {
  const styled = useStyle("pages/lab/lab.css");
  const { models, error, again } = useModels();
  const [state, change] = useLabState();
  const [times, setTimes] = useState(0);
  const model = chosenModel(state, models);
  const asked = { ...state, model: model?.id ?? state.model };
  if (styled && !models && error) {
    return html`<${Page} title=${t("app.page.lab")}><${Problem} error=${error}><${Button} icon="retry" onClick=${again}>${t("app.again")}<//><//><//>`;
  }
  if (!styled || models === null) return html`<div class="page loading" aria-busy="true"><span class="spinner"></span></div>`;
  if (!models.length) return html`<${Page} title=${t("app.page.lab")}><p>${t("lab.no_model")}</p><//>`;
  return html`<${Page} title=${t("app.page.lab")} class="lab">
    <${Desk} state=${asked} change=${change} models=${models} times=${times} again=${() => setTimes(times + 1)} />
  <//>`;
}

function chosenModel({ model }, models) {
  return models?.find(({ id }) => id === model) ?? models?.find((one) => one.default) ?? models?.[0];
}

function Desk({ state, change, models, times, again }) {
  const { result, error, waits, isCurrent } = useDistribution(state, times);
  const choose = (token) => {
    change((old) => append(old, { id: token.id, piece: token.piece, bytes: token.bytes, probability: token.probability }));
    announce(t("lab.appended", { token: visible(token) }));
  };
  const stray = error && !SHOWN_AT_FIELDS.has(fieldOf(error.param)) ? error : null;
  return html`
    <p class="muted">${t("lab.intro")}</p>
    <${Problem} error=${stray}><${Button} icon="retry" onClick=${again}>${t("app.again")}<//><//>
    <div class="desk">
      <div class="side">
        <${Prompt} state=${state} change=${change} models=${models} error=${error} />
        <${Final} state=${state} change=${change} result=${result} busy=${waits} error=${error} onChoose=${choose} />
        <${Strip} state=${state} change=${change} result=${result} isCurrent=${isCurrent} />
        <${Samples} state=${state} disabled=${!isCurrent} />
        <${Code} state=${state} />
      </div>
      <div class="main" aria-busy=${waits}>
        <div class="row">
          <${Button} icon="retry" onClick=${() => change({ settings: {} })}>${t("lab.reset")}<//>
          <${Button} icon="close" onClick=${() => change({ settings: turnedOff() })}>${t("lab.all_off")}<//>
        </div>
        <${Steps} state=${state} change=${change} result=${result} error=${error} />
      </div>
    </div>`;
}

const SHOWN = ["10", "20", "50", "200"].map((value) => ({ value, label: value }));

/** Another prompt begins a new answer. */
const fresh = { answer: [], branches: [] };

function Prompt({ state, change, models, error }) {
  const model = models.find(({ id }) => id === state.model);
  const canChat = model?.kind === "chat";
  const at = (...fields) => (error && fields.includes(fieldOf(error.param)) ? error.message : undefined);
  const modes = ["text", "chat"].map((value) => ({ value, label: t(`lab.mode.${value}`) }));
  return html`<section class="card" aria-labelledby="lab-prompt">
    <h2 id="lab-prompt">${t("lab.prompt")}</h2>
    <div class="pair">
      <${Select} label=${t("lab.model")} value=${state.model} error=${at("model")}
        options=${models.map((one) => ({ value: one.id, label: labelOf(one) }))} onChange=${(id) => change({ model: id, ...fresh })} />
      <${Select} label=${t("lab.mode_label")} value=${state.mode} options=${modes} help=${state.mode === "chat" && !canChat ? t("lab.base_model") : undefined}
        onChange=${(mode) => change({ mode, ...fresh })} />
    </div>
    ${state.mode === "chat" && html`<${TextArea} label=${t("lab.system")} rows=${2} value=${state.system} onInput=${(system) => change({ system, ...fresh })} />`}
    <${TextArea} label=${t(state.mode === "chat" ? "lab.message" : "lab.text")} rows=${2} value=${state.text} error=${at("prompt", "messages")}
      onInput=${(text) => change({ text, ...fresh })} />
  </section>`;
}

function Final({ state, change, result, busy, error, onChoose }) {
  return html`<section class="card final" aria-labelledby="lab-final" aria-busy=${busy}>
    <h2 id="lab-final">${t("lab.final")}</h2>
    <p class="muted">${t("lab.final_help")}</p>
    ${!result && busy && html`<span class="spinner" role="img" aria-label=${t("lab.asking")}></span>`}
    ${result && html`
      <p class="small">${t("lab.kept_of", {
        count: result.final.kept, all: number(result.vocabulary), entropy: number(result.final.entropy, { maximumFractionDigits: 2 }),
      })}</p>
      <div class="table-box"><${Bars} caption=${t("lab.final")} tokens=${result.final.tokens} heads=${[t("lab.by_model"), t("lab.after")]} most=${state.top} onChoose=${onChoose} drawn=${result.drawn.id} /></div>`}
    <${Select} label=${t("lab.shown")} value=${String(state.top)} options=${SHOWN} onChange=${(top) => change({ top: Number(top) })} />
    <${Seed} seed=${state.seed} used=${result?.seed} onChange=${(seed) => change({ seed })} error=${error} />
  </section>`;
}
