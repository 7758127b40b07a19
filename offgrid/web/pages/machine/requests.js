// What became of requests, since counting began.

import { html } from "../../lib/dom.js";
import { date, number, t } from "../../lib/i18n.js";
import { outcomes } from "./series.js";

const KINDS = { failed: "danger" };

export function Requests({ total }) {
  const found = Object.entries(outcomes(total.endpoints));
  const { prompt, cached, completion } = total.tokens;
  return html`<section class="card">
    <h2>${t("machine.requests")}</h2>
    <p class="muted small">${t("machine.since", { time: date(total.since) })}</p>
    <dl class="pairs">
      ${found.map(([outcome, count]) => html`<div key=${outcome}><dt>${t(`machine.outcome.${outcome}`)}</dt>
        <dd><span class=${KINDS[outcome] && count ? `badge ${KINDS[outcome]}` : ""}>${number(count)}</span></dd></div>`)}
      <div><dt>${t("machine.prompt_tokens")}</dt><dd>${number(prompt)}</dd></div>
      <div><dt>${t("machine.cached_tokens")}</dt><dd>${number(cached)}</dd></div>
      <div><dt>${t("machine.completion_tokens")}</dt><dd>${number(completion)}</dd></div>
    </dl>
    ${total.endpoints.length > 0 && html`<${Endpoints} endpoints=${total.endpoints} />`}
  </section>`;
}

function Endpoints({ endpoints }) {
  const rows = [...endpoints].sort((a, b) => b.count - a.count);
  return html`<details>
    <summary>${t("machine.by_endpoint")}</summary>
    <div class="table-box" tabindex="0" role="region" aria-label=${t("machine.by_endpoint")}><table>
      <thead><tr><th scope="col">${t("machine.endpoint")}</th><th scope="col">${t("machine.status_class")}</th><th scope="col" class="number">${t("machine.requests")}</th></tr></thead>
      <tbody>${rows.map(({ method, endpoint, status, count }) => html`<tr key=${`${method} ${endpoint} ${status}`}>
        <td class="mono" dir="ltr">${method} ${endpoint}</td><td>${status}</td><td class="number">${number(count)}</td></tr>`)}</tbody>
    </table></div>
  </details>`;
}
