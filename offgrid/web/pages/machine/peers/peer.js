// One machine that was paired with this one.

import { classes, html } from "../../../lib/dom.js";
import { bytes, relative, t } from "../../../lib/i18n.js";
import { Menu } from "../../../parts/menu.js";
import { rate } from "../machine.js";
import { TONES, addressesOf, limitsText, modelsText } from "./data.js";

/** @param {object} props `machine`: of GET /v1/peers; `onGrant`, `onForget` */
export function Peer({ machine, onGrant, onForget }) {
  const items = [
    { label: t("peers.change"), icon: "edit", run: onGrant },
    { label: t("peers.forget"), icon: "trash", danger: true, run: onForget },
  ];
  return html`<li class="peer stack">
    <header>
      <div class="row">
        <h3 dir="auto">${machine.name}</h3>
        <span class=${classes("badge", TONES[machine.state])}>${t(`peers.state.${machine.state}`)}</span>
      </div>
      <${Menu} label=${t("peers.actions", { name: machine.name })} items=${items} />
    </header>
    <${Reason} machine=${machine} />
    <${Facts} machine=${machine} />
    <dl class="pairs small">
      <div><dt>${t("peers.may")}</dt><dd dir="auto">${modelsText(machine)}</dd></div>
      <div><dt>${t("keys.limits")}</dt><dd>${limitsText(machine)}</dd></div>
    </dl>
    ${machine.models.length > 0 && html`<details>
      <summary>${t("peers.models", { count: machine.models.length })}</summary>
      <ul class="peer-models small">${machine.models.map((model) => html`<li key=${model.id}><bdi>${model.id}</bdi> <span class="muted">${bytes(model.size)}</span></li>`)}</ul>
    </details>`}
  </li>`;
}

/** Why it is not connected. */
function Reason({ machine }) {
  if (machine.state === "refused") return html`<p class="small">${t("peers.refused_help", { name: machine.name })}</p>`;
  return machine.problem && html`<p class="small" dir="auto" lang="en">${machine.problem}</p>`;
}

/** Where it is, and what it does now if it can be reached. */
function Facts({ machine }) {
  const { slots, queue, tokens_per_second: speed, rpc } = machine;
  const now = machine.state === "connected" ? [
    slots && t("peers.slots", { free: slots.free, total: slots.total }),
    queue !== null && t("peers.queue", { count: queue }),
    speed !== null && t("peers.speed", { number: rate(speed) }),
    rpc && rpc.memory_free !== null && t("peers.lends", { memory: bytes(rpc.memory_free) }),
  ] : [];
  const facts = [
    ...now,
    machine.last_seen !== null && t("peers.seen", { time: relative(machine.last_seen) }),
    machine.version && t("peers.version", { version: machine.version }),
  ].filter(Boolean);
  return html`<ul class="facts muted small">
    ${addressesOf(machine).map((address) => html`<li key=${address} class="mono" dir="ltr">${address}</li>`)}
    ${facts.map((fact) => html`<li key=${fact}>${fact}</li>`)}
  </ul>`;
}
