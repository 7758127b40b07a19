// Secrets of keys: shown once, and replaced.

import { api } from "../../lib/api.js";
import { html, useState } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { Button } from "../../parts/button.js";
import { CopyButton } from "../../parts/copy.js";
import { Dialog } from "../../parts/dialog.js";
import { Field, Problem, Select } from "../../parts/field.js";

const GRACES = ["0", "1h", "1d", "7d"];

/** Shows the secret of a key, this once. `isFirst`: this browser uses it from now on. */
export function SecretDialog({ of: key, isFirst, onClose }) {
  const actions = html`<${Button} kind="primary" onClick=${onClose}>${t("keys.have_secret")}<//>`;
  return html`<${Dialog} title=${t("keys.secret_title", { name: key.name })} onClose=${onClose} actions=${actions}>
    <p><b>${t("keys.only_once")}</b> ${t("keys.secret_text")}</p>
    <div class="key-secret">
      <${Field} label=${t("key.label")}>
        ${(ids) => html`<textarea class="mono" rows="3" readonly value=${key.key} dir="ltr" spellcheck=${false} onFocus=${(event) => event.currentTarget.select()} autofocus ...${ids}></textarea>`}
      <//>
      <${CopyButton} text=${key.key} label=${t("keys.copy_secret")} />
    </div>
    ${isFirst && html`<p>${t("keys.first_used")}</p>`}
  <//>`;
}

/** Asks how long the present secret stays valid, and replaces it. */
export function RotateDialog({ of: key, own, onClose, onDone }) {
  const [grace, setGrace] = useState("0");
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const run = async () => {
    setBusy(true);
    try {
      onDone(await api.post(`v1/keys/${key.id}/rotate`, { grace }));
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  const actions = html`
    <${Button} onClick=${onClose}>${t("app.cancel")}<//>
    <${Button} kind="primary" busy=${busy} onClick=${run}>${t("keys.rotate")}<//>`;
  const options = GRACES.map((value) => ({ value, label: t(`keys.grace.${value}`) }));
  return html`<${Dialog} title=${t("keys.rotate_title", { name: key.name })} onClose=${onClose} actions=${actions}>
    <${Problem} error=${error} />
    <p>${t("keys.rotate_text")}</p>
    ${own && html`<p>${t("keys.rotate_own")}</p>`}
    <${Select} label=${t("keys.grace_label")} value=${grace} options=${options} onChange=${setGrace} />
  <//>`;
}
