// Sticks and cards: what is on them, import from them, export to them.

import { html } from "../../lib/dom.js";
import { bytes, t } from "../../lib/i18n.js";
import { useStore } from "../../lib/store.js";
import { Button } from "../../parts/button.js";
import { Problem } from "../../parts/field.js";
import { Icon } from "../../parts/icon.js";
import { ExportDialog, askWhereTo } from "./export-dialog.js";
import { begin, jobs } from "./jobs.js";
import { grouped } from "./places.js";
import { search, sticks, useSticks } from "./sticks.js";

const MOST_IDS = 100; // of one request

/** @param {object} props `models`: those of the models directory */
export function Media({ models }) {
  useSticks();
  const state = useStore(sticks);
  const { import: coming } = useStore(jobs);
  const isImporting = coming?.status === "in_progress";
  const here = new Set(models.map(({ id }) => id));
  const places = grouped(state);
  return html`<section aria-labelledby="media">
    <header class="section-header">
      <h2 id="media">${t("models.media")}</h2>
      <${Button} icon="retry" busy=${state.searching} onClick=${() => search()}>${t("models.search")}<//>
    </header>
    <${Problem} error=${state.error} />
    ${state.media !== null && places.length === 0 && !state.searching && html`<p class="note">${t("models.no_media")}</p>`}
    ${!state.complete && html`<p class="note">${t("models.too_many_folders")}</p>`}
    <ul class="cards plain-list wide">
      ${places.map((place) => html`<li key=${place.medium.path}><${Medium} ...${place} here=${here} isImporting=${isImporting} isSearching=${state.searching} canExport=${models.length > 0} /></li>`)}
    </ul>
    <${ExportDialog} models=${models} media=${state.media ?? []} />
  </section>`;
}

function Medium({ medium, found, skipped, here, isImporting, isSearching, canExport }) {
  const fresh = found.filter(({ id }) => !here.has(id));
  const bring = (ids) => begin("import", { paths: [medium.path], ids: ids.slice(0, MOST_IDS) });
  return html`<article class="card medium" aria-label=${medium.name}>
    <h3><${Icon} name="eject" /> <bdi>${medium.name}</bdi></h3>
    <p class="small muted path" dir="ltr">${medium.path}</p>
    <${Space} medium=${medium} />
    ${found.length === 0
      ? html`<p class="small">${t(isSearching ? "models.looking" : "models.empty_medium")}</p>`
      : html`<ul class="plain-list rows">${found.map((model) => html`<${Found} key=${model.path} model=${model} isHere=${here.has(model.id)} isImporting=${isImporting} bring=${bring} />`)}</ul>`}
    <${Skipped} files=${skipped} />
    <div class="row">
      ${fresh.length > 1 && html`<${Button} icon="download" kind="primary" disabled=${isImporting} onClick=${() => bring(fresh.map(({ id }) => id))}>${t("models.import_all", { count: fresh.length })}<//>`}
      ${medium.writable && canExport && html`<${Button} icon="upload" onClick=${() => askWhereTo({ path: medium.path })}>${t("models.export_to")}<//>`}
    </div>
  </article>`;
}

function Space({ medium }) {
  if (medium.free === null || medium.size === null) return null;
  const share = medium.size > 0 ? 1 - medium.free / medium.size : 1;
  return html`<div class="memory">
    <div class="meter" aria-hidden="true"><div style=${{ inlineSize: `${100 * share}%` }}></div></div>
    <p class="small">${t("models.space", { free: bytes(medium.free), size: bytes(medium.size) })}${" "}
      ${medium.largest_file !== null && t("models.largest", { size: bytes(medium.largest_file) })}${" "}
      ${!medium.writable && t("models.read_only")}</p>
  </div>`;
}

function Found({ model, isHere, isImporting, bring }) {
  return html`<li class="file">
    <div>
      <p class="name" dir="auto">${model.id}</p>
      <p class="small muted">${bytes(model.size)}${model.parts > 1 && ` · ${t("models.parts", { count: model.parts })}`}</p>
    </div>
    ${isHere
      ? html`<span class="badge good"><${Icon} name="check" />${t("models.present")}</span>`
      : html`<${Button} icon="download" disabled=${isImporting} aria-label=${t("models.import_one", { model: model.id })} onClick=${() => bring([model.id])}>${t("models.import")}<//>`}
  </li>`;
}

function Skipped({ files }) {
  if (files.length === 0) return null;
  return html`<details>
    <summary>${t("models.skipped", { count: files.length })}</summary>
    <ul class="plain-list rows">${files.map((file) => html`<li key=${file.path} class="file"><div>
      <p class="name small" dir="ltr">${file.path}</p>
      <p class="small reason" dir="auto" lang="en">${file.reason}</p>
    </div></li>`)}</ul>
  </details>`;
}
