// Who may use the server: its keys, for people whose key has the scope admin.

import { api } from "../../lib/api.js";
import { html, useCallback, useEffect, useState } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { isKept, useKey } from "../../lib/key.js";
import { isHere } from "../../lib/owner.js";
import { learnSelf, may, self } from "../../lib/self.js";
import { useStore } from "../../lib/store.js";
import { Button } from "../../parts/button.js";
import { confirm } from "../../parts/dialog.js";
import { Checkbox, Problem } from "../../parts/field.js";
import { Page } from "../../parts/page.js";
import { useStyle } from "../../parts/style.js";
import { toast, toastError } from "../../parts/toast.js";
import { withConsent } from "./consent.js";
import { Form } from "./form.js";
import { Key } from "./key.js";
import { RotateDialog, SecretDialog } from "./secret.js";

export default function KeysPage() {
  const styled = useStyle("pages/keys/keys.css");
  const known = useStore(self);
  if (!styled || !known) return html`<div class="page loading" aria-busy="true"><span class="spinner"></span></div>`;
  if (!may("admin", known)) {
    return html`<${Page} title=${t("app.page.keys")}><${Problem} error=${t("keys.no_scope")} /><//>`;
  }
  return html`<${Keys} known=${known} />`;
}

/** The keys, what each has used, and the models for which one may be. */
async function everything(revoked) {
  const [keys, stats, models] = await Promise.all([
    api.get(`v1/keys${revoked ? "?all=true" : ""}`),
    api.get("v1/stats"),
    api.get("v1/models"),
  ]);
  return {
    keys: keys.data,
    used: new Map(stats.total.keys.map((one) => [one.id, one])),
    models: models.data.filter(isHere).map(({ id }) => id),
  };
}

function Keys({ known }) {
  const [revoked, showRevoked] = useState(false);
  const [found, setFound] = useState(null);
  const [error, setError] = useState(null);
  /** The open dialog: {kind: "create" | "change" | "rotate" | "secret", key, secret}. */
  const [open, setOpen] = useState(null);
  const close = () => setOpen(null);
  const load = useCallback(
    () => everything(revoked).then((value) => { setFound(value); setError(null); }, setError),
    [revoked, known],
  );
  useEffect(() => { load(); }, [load]);
  const told = (key) => setOpen({ kind: "secret", key, isFirst: !known.needed });
  /** Show a secret. If it is that of this browser, the browser uses it from now on. */
  const gotSecret = (key) => {
    told(key);
    if (!known.needed || key.id === known.id) useKey(key.key, !known.needed || isKept());
    load();
  };
  const changed = () => {
    close();
    toast(t("keys.changed"));
    learnSelf(); // it may be the key of this browser
    load();
  };
  const create = html`<${Button} icon="plus" kind="primary" onClick=${() => setOpen({ kind: "create" })}>${t(known.needed ? "keys.create" : "keys.create_first")}<//>`;
  return html`<${Page} title=${t("app.page.keys")} actions=${found && create}>
    <${Problem} error=${error}><${Button} icon="retry" onClick=${load}>${t("app.again")}<//><//>
    ${!known.needed && html`<section class="card"><h2>${t("keys.open_title")}</h2><p>${t("keys.open_text")}</p></section>`}
    ${found && known.needed && html`
      <p class="muted">${t("keys.intro")}</p>
      <ul class="keys">${found.keys.map((key) => html`<${Key} key=${key.id} shown=${key} used=${found.used.get(key.id)} own=${key.id === known.id}
        onChange=${() => setOpen({ kind: "change", key })} onRotate=${() => setOpen({ kind: "rotate", key })}
        onRevoke=${() => revoke(key, known, load)} />`)}</ul>
      <${Checkbox} label=${t("keys.show_revoked")} checked=${revoked} onChange=${showRevoked} />`}
    ${open?.kind === "create" && html`<${Form} models=${found.models} isFirst=${!known.needed} onClose=${close} onDone=${gotSecret} />`}
    ${open?.kind === "change" && html`<${Form} models=${found.models} changes=${open.key} onClose=${close} onDone=${changed} />`}
    ${open?.kind === "rotate" && html`<${RotateDialog} of=${open.key} own=${open.key.id === known.id} onClose=${close} onDone=${gotSecret} />`}
    ${open?.kind === "secret" && html`<${SecretDialog} of=${open.key} isFirst=${open.isFirst} onClose=${close} />`}
  <//>`;
}

/** Ask, and end a key. The last key with admin needs a second answer. */
async function revoke(key, known, load) {
  const own = key.id === known.id;
  const sure = await confirm({
    title: t("keys.revoke_title", { name: key.name }),
    text: t(own ? "keys.revoke_own" : "keys.revoke_text"),
    action: t("keys.revoke"), danger: true,
  });
  if (!sure) return;
  try {
    await withConsent((query) => api.delete(`v1/keys/${key.id}${query}`));
    toast(t("keys.revoked", { name: key.name }));
    if (own) useKey(null);
    else await load();
  } catch (error) {
    toastError(error);
  }
}
