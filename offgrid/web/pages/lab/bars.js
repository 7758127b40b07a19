// A distribution before and after a step: a table whose rows have bars.

import { classes, html } from "../../lib/dom.js";
import { number, percent, t } from "../../lib/i18n.js";
import { visible } from "./answer.js";

/** A probability with as many digits as it needs. */
export function share(value) {
  if (value === 0) return percent(0, 0);
  if (value < 0.0001) return number(value, { style: "percent", notation: "scientific", maximumFractionDigits: 1 });
  return percent(value, value < 0.01 ? 3 : value < 0.1 ? 2 : 1);
}

/**
 * @param {object} props
 *     `caption`; `tokens`: [{id, piece, bytes, probability, before}]; `removed`: those that a step
 *     has removed; `onChoose`: receives a token that is clicked;
 *     `heads`: what the columns are called; `most`: how many rows; `drawn`: the id of a token
 */
export function Bars({ caption, tokens, removed = [], onChoose, heads = [t("lab.before"), t("lab.after")], most = 12, drawn = null }) {
  const rows = [...tokens, ...removed]
    .sort((a, b) => Math.max(b.probability, b.before) - Math.max(a.probability, a.before) || a.id - b.id)
    .slice(0, most);
  const largest = Math.max(...rows.map((row) => Math.max(row.probability, row.before)), 1e-9);
  return html`<table class="bars">
    <caption class="unseen">${caption}</caption>
    <thead><tr>
      <th scope="col">${t("lab.token")}</th><th scope="col" class="bar-head"><span class="unseen">${t("lab.bar")}</span></th>
      ${heads.map((head) => html`<th key=${head} scope="col" class="number">${head}</th>`)}
    </tr></thead>
    <tbody>
      ${rows.map((row) => html`<tr key=${row.id} class=${classes(row.probability === 0 && "removed", row.id === drawn && "drawn")}>
        <th scope="row"><${Token} token=${row} onChoose=${onChoose} />${row.id === drawn && html`<span class="badge good">${t("lab.drawn")}</span>`}</th>
        <td class="bar-cell" aria-hidden="true">
          <span class="bar old" style=${{ inlineSize: `${(100 * row.before) / largest}%` }}></span>
          <span class="bar new" style=${{ inlineSize: `${(100 * row.probability) / largest}%` }}></span>
        </td>
        <td class="number">${share(row.before)}</td>
        <td class="number">${row.probability === 0 ? html`<span class="gone">${t("lab.removed")}</span>` : share(row.probability)}</td>
      </tr>`)}
    </tbody>
  </table>`;
}

/** A token, as a button if it can be chosen. */
export function Token({ token, onChoose }) {
  const shown = visible(token);
  if (!onChoose) return html`<bdi class="token" title=${t("lab.token_id", { id: String(token.id) })}>${shown}</bdi>`;
  return html`<button type="button" class="token" title=${t("lab.token_id", { id: String(token.id) })}
    aria-label=${t("lab.append", { token: shown })} onClick=${() => onChoose(token)}><bdi>${shown}</bdi></button>`;
}
