// One model: what it is, what it can do, how much memory it needs, and what can be done with it.

import { html, useState } from "../../lib/dom.js";
import { bytes, number, relative, t } from "../../lib/i18n.js";
import { Button } from "../../parts/button.js";
import { confirm } from "../../parts/dialog.js";
import { Problem } from "../../parts/field.js";
import { Icon } from "../../parts/icon.js";
import { Menu } from "../../parts/menu.js";
import { Progress } from "../../parts/progress.js";
import { toast } from "../../parts/toast.js";
import { act, isBusy } from "./data.js";
import { askWhereTo } from "./export-dialog.js";

const TONE = { loaded: "good", failed: "danger", waiting: "warn", loading: "warn", unloading: "warn" };

/**
 * @param {object} props `model`: of GET /v1/models; `loaded`: of GET /v1/loaded, if it is;
 *     `canChange`, `canExport`: whether the key may
 */
export function ModelCard({ model, loaded, canChange, canExport }) {
  const [wanted, setWanted] = useState(null);
  const run = async (action, body) => {
    setWanted(action);
    await act(model.id, action, body);
    setWanted(null);
  };
  const items = menuOf({ model, canChange, canExport, run });
  return html`<article class="card model" aria-label=${model.id}>
    <header>
      <h3 dir="auto">${model.id}</h3>
      ${items.some(Boolean) && html`<${Menu} label=${t("models.more", { model: model.id })} items=${items} />`}
    </header>
    <${Badges} model=${model} />
    <${Facts} model=${model} />
    ${["loading", "waiting"].includes(model.status)
      ? html`<${Progress} value=${model.status === "waiting" ? null : model.progress} label=${t("models.loading", { model: model.id })} text=${model.status === "waiting" ? t("models.waiting") : undefined} />`
      : html`<${Memory} model=${model} loaded=${loaded} />`}
    <${Problem} error=${model.status === "failed" && (model.problem ?? t("models.said.failed", { model: model.id }))} />
    ${canChange && html`<${MainAction} model=${model} wanted=${wanted} run=${run} />`}
  </article>`;
}

function Badges({ model }) {
  const named = (text, icon, tone = "") => html`<li class=${`badge ${tone}`}>${icon && html`<${Icon} name=${icon} />`}${text}</li>`;
  return html`<ul class="badges plain-list">
    ${named(t(`models.status.${model.status}`), null, TONE[model.status])}
    ${model.default && named(t("models.default"), "star")}
    ${model.pinned && named(t("models.pinned"), "pin")}
    ${model.vision && named(t("models.vision"), "eye")}
    ${model.tools && named(t("models.tools"), "tool")}
    ${model.reasoning && named(t("models.reasoning"), "lab")}
  </ul>`;
}

/** What it is, in one line of words and numbers. */
function Facts({ model }) {
  const facts = [
    t(`models.kind.${model.kind ?? "unknown"}`),
    model.parameters !== null && t("models.parameters", { number: short(model.parameters) }),
    model.quantization,
    bytes(model.size),
    model.context_length !== null && t("models.context", { tokens: model.context_length }),
  ].filter(Boolean);
  return html`<p class="facts">${facts.map((fact, index) => html`${index > 0 && html`<span aria-hidden="true"> · </span>`}<bdi class="fact" key=${fact}>${fact}</bdi>`)}</p>
    ${model.base !== null && html`<p class="small muted" dir="auto">${t("models.base", { model: model.base })}</p>`}
    ${model.aliases.length > 0 && html`<p class="small muted" dir="auto">${t("models.aliases", { names: model.aliases.join(", ") })}</p>`}`;
}

function short(count) {
  return number(count, { notation: "compact", maximumSignificantDigits: 3 });
}

/** The memory that it takes now, or would need. */
function Memory({ model, loaded }) {
  const { memory } = model;
  const lines = [];
  if (loaded?.memory) {
    lines.push(t("models.takes", { memory: bytes(loaded.memory) }) + (memory ? ` ${t("models.takes_most", { memory: bytes(memory.estimate) })}` : ""));
    if (loaded.sequences > 0) lines.push(t("models.in_use", { count: loaded.sequences }));
    else if (loaded.until !== null) lines.push(t("models.until", { when: relative(loaded.until) }));
  } else if (memory) {
    lines.push(needs(memory));
    if (memory.fits && memory.lowered.length > 0) lines.push(t("models.lowered", { slots: memory.slots, context: memory.context }));
  }
  const tight = memory && !loaded && !memory.fits;
  return html`<div class=${tight ? "memory tight" : "memory"}>
    ${memory && memory.free !== null && !loaded && html`<${Meter} used=${memory.needs} of=${memory.free} />`}
    ${lines.map((line) => html`<p key=${line} class="small">${line}</p>`)}
    ${tight && html`<p class="small">${t("models.too_large_advice")}</p>`}
  </div>`;
}

function needs(memory) {
  const values = { needs: bytes(memory.needs), free: bytes(memory.free ?? 0) };
  if (memory.free === null) return t("models.needs", values);
  return t(memory.fits ? "models.needs_of" : "models.does_not_fit", values);
}

/** A bar: how much of the free memory a model would take. The text after it says the same. */
function Meter({ used, of }) {
  const share = of > 0 ? Math.min(1, used / of) : 1;
  return html`<div class="meter" aria-hidden="true"><div style=${{ inlineSize: `${100 * share}%` }}></div></div>`;
}

function MainAction({ model, wanted, run }) {
  if (isBusy(model) && model.status !== "unloading") {
    return html`<div class="row"><${Button} icon="stop" busy=${wanted === "unload"} onClick=${() => run("unload", { wait: false })}>${t("models.stop_loading")}<//></div>`;
  }
  const isLoaded = ["loaded", "unloading"].includes(model.status);
  return html`<div class="row">
    ${isLoaded
      ? html`<${Button} icon="stop" busy=${wanted === "unload" || model.status === "unloading"} onClick=${() => run("unload", { wait: false })}>${t("models.unload")}<//>`
      : html`<${Button} icon="play" kind="primary" busy=${wanted === "load"} disabled=${model.memory?.fits === false} onClick=${() => run("load", { wait: false })}>${t("models.load")}<//>`}
  </div>`;
}

/** The actions of the menu; false for those that make no sense now. */
function menuOf({ model, canChange, canExport, run }) {
  const free = (name) => canChange && !model.fixed.includes(name);
  return [
    free("default") && !model.default && ["chat", "base"].includes(model.kind)
      && { label: t("models.make_default"), icon: "star", run: () => run("default") },
    free("pinned") && { label: t(model.pinned ? "models.unpin" : "models.pin"), icon: "pin", run: () => run(model.pinned ? "unpin" : "pin") },
    canExport && model.base === null && model.id !== "offgrid-starter"
      && { label: t("models.export"), icon: "upload", run: () => askWhereTo({ ids: [model.id] }) },
    canChange && model.base === null && model.id !== "offgrid-starter"
      && { label: t("models.remove"), icon: "trash", danger: true, run: () => askToRemove(model.id, model.size) },
    ...fixedItems(model, canChange),
  ];
}

/** Says why an action is missing: the settings have decided it. */
function fixedItems(model, canChange) {
  if (!canChange) return [];
  return model.fixed.map((name) => ({ label: t(`models.fixed.${name}`), icon: "info", disabled: true, run() {} }));
}

/** Delete the files of a model, if the user says so. */
export async function askToRemove(id, size = null) {
  const text = size === null ? t("models.remove_text", { model: id }) : t("models.remove_text_size", { model: id, size: bytes(size) });
  const yes = await confirm({ title: t("models.remove_title"), text, action: t("models.remove_action"), danger: true });
  if (!yes || !await act(id, "remove", { confirm: id })) return;
  toast(t("models.removed", { model: id }));
  document.getElementById("installed")?.focus(); // its card is gone
}
