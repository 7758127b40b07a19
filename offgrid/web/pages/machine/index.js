// What the machine does: slots, queue, load over time, memory, disks; and which other machines it knows.
//
// Each card is a component that gets figures of one machine.

import { api } from "../../lib/api.js";
import { connection } from "../../lib/connection.js";
import { html } from "../../lib/dom.js";
import { date, duration, t } from "../../lib/i18n.js";
import { useStore } from "../../lib/store.js";
import { Problem } from "../../parts/field.js";
import { Page } from "../../parts/page.js";
import { useStyle } from "../../parts/style.js";
import { Load } from "./load.js";
import { Figures, Memory, Storage } from "./machine.js";
import { Models } from "./models.js";
import { Peers } from "./peers/index.js";
import { usePolled } from "./poll.js";
import { Requests } from "./requests.js";

const EVERY = 2;

/** All figures of now. Slots are asked for in the same moment, so that sums agree. */
async function figures(signal) {
  const [stats, slots] = await Promise.all([
    api.get("v1/stats", { signal }),
    api.get("v1/stats/slots", { signal }),
  ]);
  return { stats, slots: slots.data };
}

export default function MachinePage() {
  const styled = useStyle("pages/machine/machine.css");
  const { value, error, at } = usePolled(figures, EVERY);
  const { online } = useStore(connection);
  if (!styled || (!value && !error)) return html`<div class="page loading" aria-busy="true"><span class="spinner"></span></div>`;
  return html`<${Page} title=${t("app.page.machine")}>
    <${Problem} error=${error && (error.status === 403 ? t("machine.no_scope") : error)} />
    ${value && html`
      ${!online && html`<p><span class="badge warn">${t("machine.as_of", { time: date(at, { timeStyle: "medium" }) })}</span></p>`}
      <div class=${online ? "machine" : "machine away"}>
        <${State} stats=${value.stats} />
        <${Figures} stats=${value.stats} />
        <${Load} memory=${value.stats.machine?.memory} cpus=${value.stats.machine?.cpus} />
        <${Models} stats=${value.stats} slots=${value.slots} />
        <${Peers} />
        <div class="column"><${Memory} stats=${value.stats} /></div>
        <div class="column">
          <${Storage} machine=${value.stats.machine} />
          <${Requests} total=${value.stats.total} />
        </div>
      </div>`}
    ${!value && html`<div class="machine"><${Peers} /></div>`}
  <//>`;
}

/** In words: whether the server is ready, for how long it has run, and which version it is. */
function State({ stats }) {
  const { status, uptime, version } = stats;
  return html`<p class="row">
    <span class=${`badge ${status === "ready" ? "good" : "warn"}`}>${t(`machine.status.${status}`)}</span>
    <span class="muted small">${t("machine.running_since", { time: duration(uptime), version })}</span>
  </p>`;
}
