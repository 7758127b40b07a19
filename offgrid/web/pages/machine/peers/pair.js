// Pairing with another machine: one of the two shows a code, and it is entered at the other one.

import { api, send } from "../../../lib/api.js";
import { html, useEffect, useRef, useState } from "../../../lib/dom.js";
import { duration, t } from "../../../lib/i18n.js";
import { Button } from "../../../parts/button.js";
import { CopyButton } from "../../../parts/copy.js";
import { Dialog } from "../../../parts/dialog.js";
import { Problem, TextField } from "../../../parts/field.js";
import { Tabs } from "../../../parts/tabs.js";
import { toast } from "../../../parts/toast.js";
import { usePolled } from "../poll.js";
import { clock, commandFor, secondsLeft } from "./data.js";

const EVERY = 1;

/** @param {object} props `here`: this machine; `address`: of the other one, if it is known; `onClose` */
export function PairDialog({ here, address, onClose }) {
  const [way, setWay] = useState(address ? "enter" : "show");
  const done = (peer) => {
    toast(t("peers.paired", { name: peer.name }));
    onClose();
  };
  const tabs = [{ id: "show", label: t("peers.show_code") }, { id: "enter", label: t("peers.enter_code") }];
  return html`<${Dialog} title=${t("peers.pair_title")} onClose=${onClose}>
    <${Tabs} label=${t("peers.ways")} tabs=${tabs} chosen=${way} onChoose=${setWay}>
      ${way === "show"
        ? html`<${ShownCode} here=${here} onDone=${done} />`
        : html`<${EnteredCode} address=${address} onDone=${done} />`}
    <//>
  <//>`;
}

/** Opens a code, shows it, and waits until a machine has it. */
function ShownCode({ here, onDone }) {
  const [code, setCode] = useState(null);
  const [ended, setEnded] = useState(null);
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const open = async () => {
    setBusy(true);
    setError(null);
    try {
      const response = await send("POST", "v1/peers/pair", { body: {} });
      const opened = await response.json();
      setCode({ ...opened, until: Date.now() / 1000 + secondsLeft(opened, response.headers.get("Date")) });
      setEnded(null);
    } catch (failure) {
      setError(failure);
    }
    setBusy(false);
  };
  const end = (pairing) => {
    setCode(null);
    if (pairing.state === "paired") onDone(pairing.peer);
    else setEnded(pairing);
  };
  return html`<div class="pairing">
    <${Problem} error=${error} />
    ${code
      ? html`<${OpenCode} key=${code.id} code=${code} here=${here} onEnd=${end} />`
      : html`<p role="status">${ended ? t(`peers.ended.${ended.state}`, { time: duration(ended.locked_for) }) : t("peers.show_text")}</p>
        <div class="row"><${Button} kind="primary" busy=${busy} onClick=${open}>${t(ended ? "peers.new_code" : "peers.open_code")}<//></div>`}
  </div>`;
}

/** An open code. It is closed when this is not shown any more. */
function OpenCode({ code, here, onEnd }) {
  const left = useCountdown(code.until);
  const isOpen = useRef(true);
  const { value } = usePolled((signal) => api.get("v1/peers/pair", { signal }), EVERY);
  useEffect(() => {
    if (!value || (value.id === code.id && value.state === "open")) return;
    isOpen.current = false;
    onEnd(value.id === code.id ? value : { ...value, state: "closed" });
  }, [value]);
  useEffect(() => () => {
    if (isOpen.current) api.delete("v1/peers/pair", { quiet: true }).catch(() => {}); // it expires
  }, []);
  return html`
    <p>${t("peers.code_text")}</p>
    <p class="row"><output class="pairing-code mono" dir="ltr" aria-label=${t("peers.code")}>${code.code}</output><${CopyButton} text=${code.code} /></p>
    <p role="timer" class="muted">${t("peers.time_left", { time: clock(left) })}</p>
    <p class="small">${t("peers.command_text")}</p>
    <p class="row command"><code dir="ltr">${commandFor(here, code.code)}</code><${CopyButton} text=${commandFor(here, code.code)} /></p>`;
}

/** Seconds until a time; renders once a second. */
function useCountdown(until) {
  const [now, setNow] = useState(Date.now() / 1000);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now() / 1000), 1000);
    return () => clearInterval(timer);
  }, []);
  return Math.max(0, until - now);
}

/** Asks for the code that the other machine shows, and for where that machine is. */
function EnteredCode({ address: known, onDone }) {
  const [fields, setFields] = useState({ address: known, code: "" });
  const [wrong, setWrong] = useState({});
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    const missing = Object.keys(fields).filter((name) => !fields[name].trim());
    setWrong(Object.fromEntries(missing.map((name) => [name, t(`peers.fault.${name}`)])));
    setError(null);
    if (missing.length) return;
    setBusy(true);
    try {
      onDone(await api.post("v1/peers/pair", { address: fields.address.trim(), code: fields.code.trim() }));
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return html`<form class="pairing" onSubmit=${submit} novalidate>
    <p>${t("peers.enter_text")}</p>
    <${Problem} error=${error} />
    <${TextField} label=${t("peers.address")} help=${t("peers.address_help")} error=${wrong.address} value=${fields.address} dir="ltr"
      autocomplete="off" autocapitalize="off" spellcheck=${false} onInput=${(address) => setFields({ ...fields, address })} />
    <${TextField} label=${t("peers.code")} error=${wrong.code} value=${fields.code} placeholder="1234-5678" dir="ltr" inputmode="numeric"
      autocomplete="off" onInput=${(code) => setFields({ ...fields, code })} />
    <div class="row"><${Button} kind="primary" type="submit" busy=${busy}>${t("peers.pair")}<//></div>
  </form>`;
}
