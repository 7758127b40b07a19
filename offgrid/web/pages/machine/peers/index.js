// Other machines: those that were paired with this one, and those that were found on the network.

import { api } from "../../../lib/api.js";
import { html, useState } from "../../../lib/dom.js";
import { t } from "../../../lib/i18n.js";
import { may, self } from "../../../lib/self.js";
import { useStore } from "../../../lib/store.js";
import { Button } from "../../../parts/button.js";
import { confirm } from "../../../parts/dialog.js";
import { Problem } from "../../../parts/field.js";
import { toast, toastError } from "../../../parts/toast.js";
import { usePolled } from "../poll.js";
import { addressesOf, sorted } from "./data.js";
import { GrantDialog } from "./grant.js";
import { PairDialog } from "./pair.js";
import { Peer } from "./peer.js";

const EVERY = 3;

/** The section about other machines, for keys that may see it. */
export function Peers() {
  return may("peers", useStore(self)) && html`<${Machines} />`;
}

function Machines() {
  const { value, error, again } = usePolled((signal) => api.get("v1/peers", { signal }), EVERY);
  /** The open dialog: {kind: "pair", address} or {kind: "grant", machine}. */
  const [open, setOpen] = useState(null);
  const close = () => {
    setOpen(null);
    again();
  };
  const isOff = error?.code === "peers_disabled";
  const pair = value && html`<${Button} icon="plus" onClick=${() => setOpen({ kind: "pair", address: "" })}>${t("peers.pair")}<//>`;
  return html`<section class="card peers" aria-labelledby="peers">
    <header class="row between"><h2 id="peers" tabindex="-1">${t("peers.title")}</h2>${!isOff && pair}</header>
    ${isOff && html`<p class="muted">${t("peers.off")}</p>`}
    <${Problem} error=${!isOff && error} />
    ${value && !isOff && html`
      <${ThisMachine} machine=${value.self} />
      <${Lists} machines=${value.data} onPair=${(address) => setOpen({ kind: "pair", address })}
        onGrant=${(machine) => setOpen({ kind: "grant", machine })} onForget=${(machine) => forget(machine, again)} />`}
    ${open?.kind === "pair" && html`<${PairDialog} here=${value.self} address=${open.address} onClose=${close} />`}
    ${open?.kind === "grant" && html`<${GrantDialog} machine=${open.machine} onClose=${close} />`}
  </section>`;
}

/** How other machines know this one. */
function ThisMachine({ machine }) {
  return html`<p class="small"><span class="muted">${t("peers.this_machine")}</span> <b dir="auto">${machine.name}</b></p>
    <ul class="facts muted small">
      ${addressesOf(machine).map((address) => html`<li key=${address} class="mono" dir="ltr">${address}</li>`)}
      <li>${t("peers.id")} <span class="mono" dir="ltr">${machine.id}</span></li>
    </ul>`;
}

function Lists({ machines, onPair, onGrant, onForget }) {
  const { paired, found } = sorted(machines);
  return html`
    ${paired.length === 0
      ? html`<p>${t("peers.none")}</p>`
      : html`<ul class="peer-list">${paired.map((machine) => html`<${Peer} key=${machine.id} machine=${machine}
          onGrant=${() => onGrant(machine)} onForget=${() => onForget(machine)} />`)}</ul>`}
    ${found.length > 0 && html`<h3>${t("peers.found")}</h3>
      <ul class="peer-list">${found.map((machine) => html`<${Found} key=${machine.id ?? machine.name} machine=${machine} onPair=${onPair} />`)}</ul>`}`;
}

/** A machine that was only found, or that the settings name: nothing that it says is proved. */
function Found({ machine, onPair }) {
  const [address] = addressesOf(machine);
  return html`<li class="peer found">
    <div class="row"><b dir="auto">${machine.name}</b>
      ${machine.name !== address && html`<span class="mono muted small" dir="ltr">${address}</span>`}
      ${machine.state === "unreachable" && html`<span class="badge warn">${t("peers.state.unreachable")}</span>`}</div>
    <${Button} icon="plus" aria-label=${t("peers.pair_with", { name: machine.name })} onClick=${() => onPair(address)}>${t("peers.pair")}<//>
  </li>`;
}

/** Ask, and forget a machine. */
async function forget(machine, again) {
  const sure = await confirm({
    title: t("peers.forget_title", { name: machine.name }), text: t("peers.forget_text"),
    action: t("peers.forget"), danger: true,
  });
  if (!sure) return;
  try {
    await api.delete(`v1/peers/${machine.id}`);
    toast(t("peers.forgotten", { name: machine.name }));
    document.getElementById("peers")?.focus(); // its menu is gone
  } catch (error) {
    toastError(error);
  }
  again();
}
