// Many draws, and their counts beside those that the distribution promises.

import { html, useState } from "../../lib/dom.js";
import { number, t } from "../../lib/i18n.js";
import { Button } from "../../parts/button.js";
import { Problem } from "../../parts/field.js";
import { Token } from "./bars.js";
import { useSamples } from "./data.js";

const TIMES = 1000;
const ROWS = 12;
const RARE = 0.01;

export function Samples({ state, disabled }) {
  const { samples, busy, draw } = useSamples(state);
  const [error, setError] = useState(null);
  const run = () => {
    setError(null);
    draw(TIMES).catch((reason) => reason.name === "AbortError" || setError(reason));
  };
  return html`<section class="card" aria-labelledby="lab-samples">
    <h2 id="lab-samples">${t("lab.samples")}</h2>
    <p class="muted">${t("lab.samples_help")}</p>
    <div class="row"><${Button} icon="play" busy=${busy} disabled=${disabled} onClick=${run}>${t("lab.sample_many", { count: TIMES })}<//></div>
    <${Problem} error=${error} />
    <div role="status">${samples && html`<p>${verdict(samples)}</p>`}</div>
    ${samples && html`<div class="table-box"><${Counts} samples=${samples} /></div>`}
  </section>`;
}

function verdict({ n, p_value: p, seed }) {
  const drawn = t("lab.sampled_with", { count: n, seed: String(seed) });
  if (p === null) return `${drawn} ${t("lab.fit_certain")}`;
  const value = number(p, { maximumSignificantDigits: 2 });
  return `${drawn} ${t(p < RARE ? "lab.fit_rare" : "lab.fit_good", { p: value })}`;
}

const whole = (value) => number(value, { maximumFractionDigits: 1 });

function Counts({ samples }) {
  const rows = samples.counts.slice(0, ROWS);
  const rest = samples.counts.slice(ROWS).reduce(
    (sum, one) => ({ count: sum.count + one.count, expected: sum.expected + one.expected }), samples.others,
  );
  const largest = Math.max(...rows.flatMap(({ count, expected }) => [count, expected]), 1);
  const width = (value) => ({ inlineSize: `${(100 * value) / largest}%` });
  return html`<table class="bars">
    <caption class="unseen">${t("lab.counts")}</caption>
    <thead><tr>
      <th scope="col">${t("lab.token")}</th><th scope="col"><span class="unseen">${t("lab.bar")}</span></th>
      <th scope="col" class="number">${t("lab.expected")}</th><th scope="col" class="number">${t("lab.count")}</th>
    </tr></thead>
    <tbody>
      ${rows.map((row) => html`<tr key=${row.id}>
        <th scope="row"><${Token} token=${row} /></th>
        <td class="bar-cell" aria-hidden="true">
          <span class="bar old" style=${width(row.expected)}></span><span class="bar new" style=${width(row.count)}></span>
        </td>
        <td class="number">${whole(row.expected)}</td><td class="number">${number(row.count)}</td>
      </tr>`)}
      ${(rest.count > 0 || rest.expected >= 0.05) && html`<tr>
        <th scope="row" class="muted">${t("lab.others")}</th><td></td>
        <td class="number">${whole(rest.expected)}</td><td class="number">${number(rest.count)}</td>
      </tr>`}
    </tbody>
  </table>`;
}
