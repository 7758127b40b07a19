// The load over time: one plot for each kind of number.

import { api } from "../../lib/api.js";
import { html, useRef, useState } from "../../lib/dom.js";
import { bytes, date, duration, number, t } from "../../lib/i18n.js";
import { recall, remember } from "../../lib/local.js";
import { Plot, timeTicks } from "../../parts/plot.js";
import { Problem } from "../../parts/field.js";
import { Tabs } from "../../parts/tabs.js";
import { degrees, rate } from "./machine.js";
import { usePolled } from "./poll.js";
import { SPANS, binned, endOf, join, read, summary } from "./series.js";

const EVERY = { hour: 5, day: 30 };

/** The plots, with the choice of a span. */
export function Load({ memory, cpus }) {
  const [chosen, choose] = useState(recall("machine.span", "minutes"));
  const span = SPANS.find(({ name }) => name === chosen) ?? SPANS[0];
  const { value, error } = useSeries(span.window);
  const tabs = SPANS.map(({ name, seconds }) => ({ id: name, label: length(seconds) }));
  const pick = (name) => {
    remember("machine.span", name);
    choose(name);
  };
  return html`<section class="card">
    <h2>${t("machine.over_time")}</h2>
    <${Problem} error=${error} />
    <${Tabs} label=${t("machine.over_time")} tabs=${tabs} chosen=${span.name} onChoose=${pick}>
      ${value && (value.columns.at.length
        ? html`<${Plots} series=${value} span=${span} memory=${memory} cpus=${cpus} />`
        : html`<p class="muted">${t("machine.no_points", { time: duration(value.step) })}</p>`)}
    <//>
  </section>`;
}

/** A span in its own unit: 10 min, 1 hr, 24 hr. */
function length(seconds) {
  const [value, unit] = seconds < 3600 ? [seconds / 60, "minute"] : [seconds / 3600, "hour"];
  return number(value, { style: "unit", unit, unitDisplay: "short" });
}

/** All points of a window. After the first answer, only new ones are asked for. */
function useSeries(name) {
  const known = useRef(null);
  const load = async (signal) => {
    const ask = async (after) => read(await api.get(`v1/stats/series?window=${name}&after=${after}`, { signal }));
    const before = known.current?.window === name ? known.current : null;
    known.current = join(before, await ask(before?.last ?? -1)) ?? await ask(-1);
    return known.current;
  };
  return usePolled(load, EVERY[name], name);
}

function Plots({ series, span, memory, cpus }) {
  const heat = series.columns.temperature.some((value) => value !== null);
  const whole = (value) => number(value, { maximumFractionDigits: 1 });
  return html`<div class="plots">
    <${Over} series=${series} span=${span} title=${t("machine.plot.tokens")} y=${rate}
      columns=${[["tokens.completion", t("machine.written")], ["tokens.prompt", t("machine.read")]]} />
    <${Over} series=${series} span=${span} title=${t("machine.plot.sequences")} y=${whole} most=${1}
      columns=${[["sequences.running", t("machine.running")], ["sequences.waiting", t("machine.waiting")]]} />
    <${Over} series=${perMinute(series)} span=${span} title=${t("machine.plot.requests")} y=${whole} most=${1}
      columns=${[["requests.answered", t("machine.answered")], ["requests.refused", t("machine.refused")], ["requests.failed", t("machine.failed")]]} />
    <${Over} series=${series} span=${span} title=${t("machine.plot.cpus", { count: cpus ?? 1 })} y=${whole} most=${cpus ?? 1}
      columns=${[["cpus", t("machine.processors")]]} />
    <${Over} series=${series} span=${span} title=${t("machine.plot.memory", { total: bytes(memory ?? 0) })} y=${bytes} most=${memory}
      columns=${[["memory.workers", t("machine.workers")], ["memory.server", t("machine.server")], ["memory.available", t("machine.available")]]} />
    ${heat && html`<${Over} series=${series} span=${span} title=${t("machine.plot.temperature")} y=${degrees} least=${20} most=${80}
      columns=${[["temperature", t("machine.temperature")]]} />`}
  </div>`;
}

/** The series with requests per minute instead of per point. */
function perMinute(series) {
  const factor = 60 / series.step;
  const columns = { ...series.columns };
  for (const name of Object.keys(columns)) {
    if (name.startsWith("requests.")) columns[name] = columns[name].map((count) => count * factor);
  }
  return { ...series, columns };
}

function Over({ series, span, title, columns, y, least, most }) {
  const lines = columns.map(([column, name]) => ({ name, points: binned(series, column, span) }));
  const to = endOf(series, span);
  const clock = (at) => date(at, { timeStyle: "short" });
  return html`<div class="stack">
    <h3>${title}</h3>
    <${Plot} label=${title} lines=${lines} x=${clock} y=${y} least=${least} most=${most}
      from=${to - span.seconds} to=${to} xTicks=${timeTicks} xLabel=${t("machine.time")} summary=${words(lines, y, clock)} table />
  </div>`;
}

/** The lines in sentences. */
function words(lines, y, clock) {
  return lines.map(({ name, points }) => {
    const told = summary(points);
    if (!told) return t("machine.unknown", { name });
    if (told.most === 0) return t("machine.nothing", { name });
    return t("machine.summary", { name, now: y(told.now), mean: y(told.mean), most: y(told.most), time: clock(told.at) });
  }).join(" ");
}
