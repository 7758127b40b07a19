// The page of models: what is installed, what is on sticks, and what cannot be used.

import { html, useState } from "../../lib/dom.js";
import { bytes, t } from "../../lib/i18n.js";
import { may, self } from "../../lib/self.js";
import { useStore } from "../../lib/store.js";
import { Button } from "../../parts/button.js";
import { Problem, TextField } from "../../parts/field.js";
import { Page } from "../../parts/page.js";
import { useStyle } from "../../parts/style.js";
import { ModelCard } from "./card.js";
import { known, refresh, useModels } from "./data.js";
import { Media } from "./media.js";
import { OfPeers } from "./peers.js";
import { Transfers } from "./transfers.js";
import { Unusable } from "./unusable.js";

const MANY = 8; // With more models, there is a field to search them.
const STARTER = "offgrid-starter";

export default function Models() {
  const ready = useStyle("pages/models/models.css");
  const who = useStore(self);
  useModels(who);
  const state = useStore(known);
  if (!ready || !who) return html`<div class="page loading" aria-busy="true"><span class="spinner"></span></div>`;
  return html`<${Page} title=${t("app.page.models")} class="models">
    <${Problem} error=${state?.error}><${Button} icon="retry" onClick=${() => refresh()}>${t("app.again")}<//><//>
    ${!may("models", who) && html`<p class="note">${t("models.no_scope")}</p>`}
    <${Transfers} />
    ${state ? html`<${Installed} state=${state} who=${who} />` : html`<span class="spinner" aria-label=${t("models.looking")} role="img"></span>`}
    ${state && html`<${OfPeers} models=${state.others} canCopy=${may("import", who)} />`}
    ${state && html`<${Unusable} files=${state.unusable} canRemove=${may("models", who)} />`}
    ${may("import", who) ? html`<${Media} models=${state?.models ?? []} />` : html`<p class="note">${t("models.no_import_scope")}</p>`}
  <//>`;
}

function Installed({ state, who }) {
  const [wanted, setWanted] = useState("");
  const { models, loaded } = state;
  const memory = new Map(loaded.map((one) => [one.id, one]));
  const shown = models.filter(({ id }) => id.toLowerCase().includes(wanted.trim().toLowerCase()));
  return html`<section aria-labelledby="installed">
    <h2 id="installed" tabindex="-1">${t("models.installed")}</h2>
    <${Summary} models=${models} loaded=${loaded} />
    ${models.length > MANY && html`<${TextField} type="search" label=${t("models.find")} value=${wanted} onInput=${setWanted} />`}
    ${models.length === 0 && !state.error && html`<p class="note">${t("models.none")}</p>`}
    ${models.length > 0 && shown.length === 0 && html`<p class="note" role="status">${t("models.none_found")}</p>`}
    ${models.length === 1 && models[0].id === STARTER && html`<p class="note">${t("models.only_starter")}</p>`}
    <ul class="cards plain-list">
      ${shown.map((model) => html`<li key=${model.id}><${ModelCard} model=${model} loaded=${memory.get(model.id)} canChange=${may("models", who)} canExport=${may("import", who)} /></li>`)}
    </ul>
  </section>`;
}

/** How much memory the loaded models take, and how much is free for others. */
function Summary({ models, loaded }) {
  const used = loaded.reduce((sum, one) => sum + (one.memory ?? 0), 0);
  const free = models.map((model) => model.memory).find((memory) => memory && memory.free !== null)?.free;
  return html`<p class="muted">
    ${t("models.count", { count: models.length })}${" "}
    ${loaded.length > 0 && `${t("models.loaded_count", { count: loaded.length, memory: bytes(used) })} `}
    ${free !== undefined && t("models.free", { memory: bytes(free) })}
  </p>`;
}
