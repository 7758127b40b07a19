// Models that only other machines have: used as they are, or copied to this machine.

import { html } from "../../lib/dom.js";
import { bytes, t } from "../../lib/i18n.js";
import { isOutOfReach } from "../../lib/owner.js";
import { useStore } from "../../lib/store.js";
import { Button } from "../../parts/button.js";
import { begin, jobs } from "./jobs.js";

/** @param {object} props `models`: of GET /v1/models, only those of other machines; `canCopy`: whether the key may */
export function OfPeers({ models, canCopy }) {
  const isImporting = useStore(jobs).import?.status === "in_progress";
  if (models.length === 0) return null;
  const machines = new Map(models.map((model) => [model.peer, model.owned_by]));
  return html`<section aria-labelledby="of-peers">
    <h2 id="of-peers">${t("models.of_peers.title")}</h2>
    <p class="muted">${t("models.of_peers.help")}</p>
    <ul class="cards plain-list wide">${[...machines].map(([id, name]) => html`<li key=${id}>
      <${Machine} name=${name} models=${models.filter(({ peer }) => peer === id)} canCopy=${canCopy} isImporting=${isImporting} />
    </li>`)}</ul>
  </section>`;
}

function Machine({ name, models, canCopy, isImporting }) {
  return html`<article class="card" aria-label=${name}>
    <header class="row"><h3 dir="auto">${name}</h3>
      ${models.every(isOutOfReach) && html`<span class="badge warn">${t("peers.state.unreachable")}</span>`}</header>
    <ul class="plain-list rows">${models.map((model) => html`<${Model} key=${model.id} model=${model} canCopy=${canCopy} isImporting=${isImporting} />`)}</ul>
  </article>`;
}

function Model({ model, canCopy, isImporting }) {
  const facts = [
    t(`models.kind.${model.kind ?? "unknown"}`),
    model.size != null && bytes(model.size),
    model.context_length != null && t("models.context", { tokens: model.context_length }),
  ].filter(Boolean);
  const copy = () => begin("import", { peer: model.peer, ids: [model.id] });
  return html`<li class="file">
    <div>
      <p class="name" dir="auto">${model.id}</p>
      <p class="small muted facts">${facts.map((fact, index) => html`${index > 0 && html`<span aria-hidden="true"> · </span>`}<bdi class="fact" key=${fact}>${fact}</bdi>`)}</p>
    </div>
    ${canCopy && html`<${Button} icon="download" disabled=${isImporting || isOutOfReach(model)} aria-label=${t("models.of_peers.copy_one", { model: model.id })} onClick=${copy}>${t("models.of_peers.copy")}<//>`}
  </li>`;
}
