// Files of the models directory that cannot be used: why, and what helps.

import { html } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { IconButton } from "../../parts/button.js";
import { askToRemove } from "./card.js";

/** @param {object} props `files`: `unusable` of GET /v1/models; `canRemove`: whether the key may */
export function Unusable({ files, canRemove }) {
  if (files.length === 0) return null;
  return html`<section aria-labelledby="unusable">
    <h2 id="unusable">${t("models.unusable")}</h2>
    <ul class="plain-list rows card">
      ${files.map((file) => html`<li key=${file.file} class="file">
        <div>
          <p class="name" dir="auto">${file.file}</p>
          <p class="small reason" dir="auto" lang="en">${file.reason}</p>
          <p class="small muted">${t(`models.advice.${file.code}`)}</p>
        </div>
        ${canRemove && file.id !== null && html`<${IconButton} icon="trash" label=${t("models.remove_file", { file: file.file })} onClick=${() => askToRemove(file.id)} />`}
      </li>`)}
    </ul>
  </section>`;
}
