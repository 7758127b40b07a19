// The form for what another machine may do here.

import { api } from "../../../lib/api.js";
import { html, useEffect, useState } from "../../../lib/dom.js";
import { t } from "../../../lib/i18n.js";
import { isHere } from "../../../lib/owner.js";
import { Button } from "../../../parts/button.js";
import { Dialog } from "../../../parts/dialog.js";
import { Problem } from "../../../parts/field.js";
import { LimitFields, ModelsField, goToFault, limitFaults, limitFields, limitsOf } from "../../../parts/grant.js";
import { toast } from "../../../parts/toast.js";

/** @param {object} props `machine`: of GET /v1/peers; `onClose` */
export function GrantDialog({ machine, onClose }) {
  const { fields, set, wrong, error, busy, submit } = useForm(machine, onClose);
  const here = useModelIds();
  const actions = html`
    <${Button} onClick=${onClose}>${t("app.cancel")}<//>
    <${Button} kind="primary" type="submit" form="peer-form" busy=${busy}>${t("keys.save")}<//>`;
  return html`<${Dialog} title=${t("peers.change_title", { name: machine.name })} onClose=${onClose} actions=${actions}>
    <form id="peer-form" class="grant" onSubmit=${submit} novalidate>
      <${Problem} error=${error} />
      <p>${t("peers.grant_text", { name: machine.name })}</p>
      <${ModelsField} all=${fields.all} chosen=${fields.models} models=${here} error=${wrong.models} onChange=${set} />
      <${LimitFields} values=${fields.limits} wrong=${wrong} onChange=${(limits) => set({ limits })} />
    </form>
  <//>`;
}

function useForm(machine, onClose) {
  const [fields, setFields] = useState(() => ({
    all: machine.models_allowed === null, models: new Set(machine.models_allowed ?? []), limits: limitFields(machine.limits),
  }));
  const [wrong, setWrong] = useState({});
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    const found = limitFaults(fields.limits);
    if (!fields.all && !fields.models.size) found.models = t("keys.fault.models");
    setWrong(found);
    setError(null);
    if (Object.keys(found).length) return goToFault(event.currentTarget);
    setBusy(true);
    try {
      await api.post(`v1/peers/${machine.id}`, { models: fields.all ? [] : [...fields.models], limits: limitsOf(fields.limits) });
      toast(t("peers.changed", { name: machine.name }));
      onClose();
    } catch (failure) {
      setError(failure);
      setBusy(false);
    }
  };
  return { fields, set: (members) => setFields({ ...fields, ...members }), wrong, error, busy, submit };
}

/** The ids of the models of this machine; none until they are known. */
function useModelIds() {
  const [ids, setIds] = useState([]);
  useEffect(() => {
    const control = new AbortController();
    api.get("v1/models", { signal: control.signal }).then(
      ({ data }) => setIds(data.filter(isHere).map(({ id }) => id)), () => {}, // those that were chosen are listed
    );
    return () => control.abort();
  }, []);
  return ids;
}
