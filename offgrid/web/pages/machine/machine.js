// The machine itself: what it does now, its memory and its disks.

import { html } from "../../lib/dom.js";
import { bytes, duration, list, number, percent, t } from "../../lib/i18n.js";
import { Icon } from "../../parts/icon.js";
import { Bar } from "./bar.js";
import { disksOf, fullness } from "./series.js";

/** Part of the memory below which the machine soon has none left. */
const LITTLE = 0.05;
/** Degrees from where a processor that tells no limit counts as hot. */
const HOT = 90;

/** A temperature with its unit. */
export function degrees(value) {
  return number(value, { style: "unit", unit: "celsius", maximumFractionDigits: 0 });
}

/** A rate with at most one digit after the point. */
export function rate(value) {
  return number(value, { maximumFractionDigits: value < 100 ? 1 : 0 });
}

/** The numbers of now, as large as a phone needs them. */
export function Figures({ stats }) {
  const { machine, models, throughput } = stats;
  const sum = (name) => models.reduce((all, model) => all + model[name], 0);
  const heat = machine?.temperature;
  const hot = heat && heat.celsius >= (heat.high ?? HOT);
  return html`<dl class="figures">
    <${Figure} name=${t("machine.written_minute")} value=${rate(throughput.completion)} unit=${t("machine.per_second")} />
    <${Figure} name=${t("machine.read_minute")} value=${rate(throughput.prompt)} unit=${t("machine.per_second")} />
    <${Figure} name=${t("machine.busy_slots")} value=${number(sum("running"))} unit=${t("machine.of", { count: sum("slots") })} />
    <${Figure} name=${t("machine.waiting")} value=${number(sum("waiting"))} />
    ${machine?.load != null && html`<${Figure} name=${t("machine.processors")} value=${number(machine.load, { maximumFractionDigits: 1 })} unit=${t("machine.of", { count: machine.cpus })} />`}
    ${heat && html`<${Figure} name=${t("machine.temperature")} value=${degrees(heat.celsius)} warn=${hot && t("machine.hot")} title=${heat.sensor} />`}
    ${machine?.battery && html`<${Battery} battery=${machine.battery} />`}
  </dl>`;
}

function Figure({ name, value, unit, warn, title }) {
  return html`<div title=${title}>
    <dt>${name}</dt>
    <dd><b>${value}</b>${unit && html` <span class="muted small">${unit}</span>`}
      ${warn && html` <span class="badge warn"><${Icon} name="alert" />${warn}</span>`}</dd>
  </div>`;
}

function Battery({ battery }) {
  const left = battery.plugged ? t("machine.plugged") : battery.seconds !== null && t("machine.lasts", { time: duration(battery.seconds) });
  return html`<${Figure} name=${t("machine.battery")} value=${percent(battery.percent / 100, 0)} unit=${left}
    warn=${battery.plugged === false && battery.percent < 15 && t("machine.battery_low")} />`;
}

/** Memory: the machine's, and that of each process. */
export function Memory({ stats }) {
  const { machine, server, models } = stats;
  if (!machine) return null;
  const used = machine.memory - machine.available;
  const little = machine.available < LITTLE * machine.memory;
  const text = t("machine.memory_used", { used: bytes(used), total: bytes(machine.memory) });
  const processes = [
    ...(server ? [{ name: t("machine.server"), process: server }] : []),
    ...models.filter((model) => model.process).map((model) => ({ name: model.id, process: model.process })),
  ];
  return html`<section class="card">
    <h2>${t("machine.memory")}</h2>
    <${Bar} value=${used / machine.memory} label=${t("machine.memory")} text=${text} kind=${little && "danger"} />
    <p>${text} ${little && html`<span class="badge danger"><${Icon} name="alert" />${t("machine.memory_low")}</span>`}</p>
    ${processes.length > 0 && html`<dl class="pairs">${processes.map(({ name, process }) => html`<div key=${name}>
      <dt dir="auto">${name}</dt><dd>${bytes(process.pss ?? process.rss)}</dd></div>`)}</dl>`}
    ${machine.gpus.map((gpu) => html`<${Gpu} key=${gpu.name} gpu=${gpu} />`)}
    <p class="muted small">${t("machine.memory_help")}</p>
  </section>`;
}

function Gpu({ gpu }) {
  const text = t("machine.memory_used", { used: bytes(gpu.total - gpu.free), total: bytes(gpu.total) });
  return html`<h3 dir="auto">${gpu.name}</h3>
    <${Bar} value=${(gpu.total - gpu.free) / gpu.total} label=${gpu.name} text=${text} />
    <p>${text}</p>`;
}

/** The disks on which the server keeps something. */
export function Storage({ machine }) {
  if (!machine?.disks.length) return null;
  return html`<section class="card">
    <h2>${t("machine.disks")}</h2>
    ${disksOf(machine.disks).map((disk) => html`<${Disk} key=${disk.places.join()} disk=${disk} />`)}
  </section>`;
}

function Disk({ disk }) {
  const kind = fullness(disk);
  const names = list(disk.places.map((place) => t(`machine.place.${place}`)));
  const text = t("machine.disk_free", { free: bytes(disk.free), total: bytes(disk.total) });
  return html`<div class="stack">
    <h3>${names}</h3>
    <${Bar} value=${1 - disk.free / disk.total} label=${names} text=${text} kind=${kind} />
    <p>${text} ${kind && html`<span class=${`badge ${kind}`}><${Icon} name="alert" />${t("machine.disk_full")}</span>`}</p>
  </div>`;
}
