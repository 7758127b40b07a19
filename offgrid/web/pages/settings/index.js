// Settings of this browser, and what the server is.

import { api } from "../../lib/api.js";
import { html, useEffect, useState } from "../../lib/dom.js";
import { LANGUAGES, language, setLanguage, t } from "../../lib/i18n.js";
import { keyStore, useKey } from "../../lib/key.js";
import { self } from "../../lib/self.js";
import { useStore } from "../../lib/store.js";
import { THEMES, setTheme, theme } from "../../lib/theme.js";
import { Button } from "../../parts/button.js";
import { Checkbox, Select, TextField } from "../../parts/field.js";
import { Page } from "../../parts/page.js";
import { toast, toastError } from "../../parts/toast.js";

export default function Settings() {
  return html`<${Page} title=${t("app.page.settings")} class="narrow">
    <${Look} />
    <${Key} />
    <${About} />
  <//>`;
}

function Look() {
  const chosen = useStore(theme);
  const code = useStore(language);
  const languages = LANGUAGES.map((one) => ({ value: one.code, label: one.name }));
  const themes = THEMES.map((name) => ({ value: name, label: t(`settings.theme.${name}`) }));
  return html`<section class="card">
    <h2>${t("settings.look")}</h2>
    <${Select} label=${t("settings.language")} value=${code} options=${languages}
      onChange=${(wanted) => setLanguage(wanted, true).catch(toastError)} />
    <${Select} label=${t("settings.colours")} value=${chosen} options=${themes} onChange=${setTheme} />
  </section>`;
}

function Key() {
  const key = useStore(keyStore);
  const known = useStore(self);
  const [typed, setTyped] = useState("");
  const [keep, setKeep] = useState(true);
  const change = (event) => {
    event.preventDefault();
    useKey(typed.trim(), keep);
    setTyped("");
    toast(t("settings.key_used"));
  };
  return html`<section class="card">
    <h2>${t("settings.key")}</h2>
    <p>${keyText(key, known)}</p>
    <form onSubmit=${change}>
      <${TextField} label=${t("key.label")} type="password" autocomplete="current-password" value=${typed} onInput=${setTyped} spellcheck=${false} />
      <${Checkbox} label=${t("key.keep")} help=${t("key.keep_help")} checked=${keep} onChange=${setKeep} />
      <div class="row">
        <${Button} kind="primary" type="submit" disabled=${!typed.trim()}>${t("key.use")}<//>
        ${key && html`<${Button} kind="danger" onClick=${() => useKey(null)}>${t("settings.forget_key")}<//>`}
      </div>
    </form>
  </section>`;
}

function keyText(key, known) {
  if (known && !known.needed) return t("settings.key_not_needed");
  if (!key) return t("settings.no_key");
  return known?.name ? t("settings.key_is", { name: known.name, scopes: known.scopes.join(", ") }) : t("settings.key_unknown");
}

function About() {
  const [server, setServer] = useState(null);
  useEffect(() => {
    // At the root, programs get the server's name and version.
    api.get("", { headers: { Accept: "application/json" } }).then(setServer, () => {});
  }, []);
  return html`<section class="card">
    <h2>${t("settings.about")}</h2>
    <p>${t("settings.about_text")}</p>
    ${server?.version && html`<p>${t("settings.version", { version: server.version })}</p>`}
    <p><a href="vendor/vendor.json" target="_blank" rel="noopener">${t("settings.licences")}</a></p>
  </section>`;
}
