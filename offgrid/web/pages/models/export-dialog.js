// Which models are copied to which stick.

import { html, useState } from "../../lib/dom.js";
import { bytes, t } from "../../lib/i18n.js";
import { Store, useStore } from "../../lib/store.js";
import { Button } from "../../parts/button.js";
import { Dialog } from "../../parts/dialog.js";
import { Checkbox, Problem, Select } from "../../parts/field.js";
import { jobs, start } from "./jobs.js";

/** What the dialog begins with, {ids, path}; null while it is closed. */
const asked = new Store(null);

/** Open the dialog, with models or a stick chosen. */
export function askWhereTo({ ids = [], path = null }) {
  asked.set({ ids, path });
}

/** Shown while it is open. `models`: those of the models directory; `media`: of GET /v1/export */
export function ExportDialog({ models, media }) {
  const first = useStore(asked);
  return first && html`<${Form} first=${first} models=${models.filter(isFile)} media=${media.filter(({ writable }) => writable)} />`;
}

function isFile(model) {
  return model.base === null && model.id !== "offgrid-starter";
}

function Form({ first, models, media }) {
  const [ids, setIds] = useState(first.ids);
  const [path, setPath] = useState(first.path ?? media[0]?.path ?? "");
  const [replace, setReplace] = useState(false);
  const [busy, setBusy] = useState(false);
  const running = useStore(jobs).export?.status === "in_progress";
  const medium = media.find((one) => one.path === path);
  const size = models.filter(({ id }) => ids.includes(id)).reduce((sum, model) => sum + model.size, 0);
  const close = () => asked.set(null);
  const [error, setError] = useState(null);
  const send = async () => {
    setBusy(true);
    try {
      await start("export", { path, ids, replace });
      close();
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  const actions = html`
    <${Button} onClick=${close}>${t("app.cancel")}<//>
    <${Button} kind="primary" icon="upload" busy=${busy} disabled=${ids.length === 0 || !medium || running} onClick=${send}>${t("models.export_start")}<//>`;
  return html`<${Dialog} title=${t("models.export_title")} onClose=${close} actions=${actions}>
    <${Problem} error=${error} />
    ${media.length === 0
      ? html`<p>${t("models.no_target")}</p>`
      : html`<${Select} label=${t("models.export_where")} value=${path} onChange=${setPath} options=${media.map((one) => ({ value: one.path, label: labelOf(one) }))} />`}
    <fieldset class="choices">
      <legend>${t("models.export_what")}</legend>
      ${models.map((model) => html`<${Choice} key=${model.id} model=${model} medium=${medium} ids=${ids} setIds=${setIds} />`)}
    </fieldset>
    <${Checkbox} label=${t("models.export_replace")} checked=${replace} onChange=${setReplace} />
    <p role="status" class=${medium && medium.free !== null && size > medium.free ? "small tight" : "small muted"}>
      ${running ? t("models.export_running") : sizeText(size, medium)}
    </p>
  <//>`;
}

function labelOf(medium) {
  return medium.free === null ? medium.name : t("models.export_free", { name: medium.name, free: bytes(medium.free) });
}

function sizeText(size, medium) {
  if (size === 0) return t("models.export_nothing");
  const enough = !medium || medium.free === null || size <= medium.free;
  return t(enough ? "models.export_size" : "models.export_too_much", { size: bytes(size), free: bytes(medium?.free ?? 0) });
}

function Choice({ model, medium, ids, setIds }) {
  // The parts of a split model are smaller; only the server knows how large each is.
  const tooLarge = medium && medium.largest_file !== null && model.size > medium.largest_file && !/-\d{5}-of-\d{5}$/.test(model.id);
  const change = (on) => setIds(on ? [...ids, model.id] : ids.filter((id) => id !== model.id));
  return html`<${Checkbox} label=${`${model.id} (${bytes(model.size)})`} checked=${ids.includes(model.id)} onChange=${change}
    help=${tooLarge ? t("models.too_large_for", { size: bytes(medium.largest_file) }) : undefined} />`;
}
