/** Which model answers, and what it is doing. */

import { classes, html, useId } from "../../lib/dom.js";
import { percent, t } from "../../lib/i18n.js";
import { isHere, isOutOfReach, labelOf, machineOf } from "../../lib/owner.js";
import { useStore } from "../../lib/store.js";
import { models } from "./models.js";

/** @param {{model: object|null, onChoose: (id: string) => void}} props `model`: that which answers */
export function ModelPicker({ model, onChoose }) {
  const { list, error } = useStore(models);
  const id = useId();
  if (!list) return html`<p class="muted small picker-empty">${error ? error.message : t("chat.models_loading")}</p>`;
  if (!list.length) return html`<p class="small picker-empty">${t("chat.no_models")} <a href="#/models">${t("app.page.models")}</a></p>`;
  return html`<div class="picker">
    <label class="unseen" for=${id}>${t("chat.model")}</label>
    <select id=${id} value=${model?.id} onChange=${(event) => onChoose(event.currentTarget.value)}>
      ${list.map((one) => html`<option key=${one.id} value=${one.id} selected=${one.id === model?.id}>${nameOf(one)}</option>`)}
    </select>
    ${model && html`<${ModelState} model=${model} />`}
  </div>`;
}

function nameOf(model) {
  return isHere(model) && model.status === "loaded" ? `${model.id} \u2713` : labelOf(model);
}

function ModelState({ model }) {
  const { status, progress } = model;
  if (isOutOfReach(model)) return html`<span class="badge danger">${t("peers.state.unreachable")}</span>`;
  if (!isHere(model)) return html`<span class="badge" dir="auto">${t("chat.on_machine", { machine: machineOf(model) })}</span>`;
  const isLoading = status === "loading" || status === "waiting";
  const kind = { loaded: "good", failed: "danger" }[status] ?? "";
  const share = status === "loading" && typeof progress === "number" ? percent(progress, 0) : "";
  return html`<span class=${classes("badge", kind)}>
    ${isLoading && html`<span class="spinner" aria-hidden="true"></span>`}
    ${t(`chat.status.${status ?? "unloaded"}`)} ${share}
  </span>`;
}
