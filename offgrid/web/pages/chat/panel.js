/** The settings of a conversation: presets, system prompt, sampling, tools. */

import { html, useState } from "../../lib/dom.js";
import { number, t } from "../../lib/i18n.js";
import { useStore } from "../../lib/store.js";
import { Button } from "../../parts/button.js";
import { Dialog } from "../../parts/dialog.js";
import { Select, TextArea, TextField } from "../../parts/field.js";
import { toast } from "../../parts/toast.js";
import { SAMPLING, parseExtra, parseTools } from "./request.js";
import { presets, removePreset, savePreset } from "./settings.js";

const EFFORTS = ["", "none", "minimal", "low", "medium", "high", "xhigh", "max"];

/**
 * @param {object} props `settings`; `model`; `onSave(settings)`; `onClose`
 */
export function SettingsPanel({ settings, model, onSave, onClose }) {
  const [draft, setDraft] = useState(settings);
  const change = (members) => setDraft((now) => ({ ...now, ...members }));
  const errors = errorsOf(draft);
  const isWrong = Object.keys(errors).length > 0;
  const save = (event) => {
    event?.preventDefault();
    if (!isWrong) onSave(draft);
  };
  const actions = html`
    <${Button} onClick=${onClose}>${t("app.cancel")}<//>
    <${Button} kind="primary" type="submit" form="chat-settings" disabled=${isWrong}>${t("chat.use_settings")}<//>`;
  return html`<${Dialog} title=${t("chat.settings")} wide onClose=${onClose} actions=${actions}>
    <form id="chat-settings" onSubmit=${save} novalidate>
      <${Presets} draft=${draft} onUse=${(preset) => setDraft({ model: draft.model, ...preset })} isWrong=${isWrong} />
      <${TextArea} label=${t("chat.system")} help=${t("chat.system_help")} rows=${4} value=${draft.system ?? ""} onInput=${(system) => change({ system })} />
      <${Sampling} values=${draft.sampling ?? {}} errors=${errors} onChange=${(sampling) => change({ sampling })} />
      ${model?.reasoning !== false && html`<${Select} label=${t("chat.effort")} help=${t("chat.effort_help")} value=${draft.effort ?? ""}
        options=${EFFORTS.map((value) => ({ value, label: value ? t(`chat.efforts.${value}`) : t("chat.efforts.usual") }))}
        onChange=${(effort) => change({ effort })} />`}
      <${TextArea} label=${t("chat.tools")} help=${t("chat.tools_help")} error=${errors.tools} class="mono" spellcheck=${false} rows=${4}
        value=${draft.tools ?? ""} onInput=${(tools) => change({ tools })} />
      <${TextArea} label=${t("chat.extra")} help=${t("chat.extra_help")} error=${errors.extra} class="mono" spellcheck=${false} rows=${2}
        value=${draft.extra ?? ""} onInput=${(extra) => change({ extra })} />
    </form>
  <//>`;
}

/** What is wrong, by the name of the setting. */
function errorsOf(settings) {
  const errors = {};
  for (const { name, min, max } of SAMPLING) {
    const value = settings.sampling?.[name];
    if (value !== undefined && !(value >= min && value <= max)) {
      errors[name] = t("chat.out_of_range", { min: number(min), max: number(max) });
    }
  }
  if (fails(parseTools, settings.tools)) errors.tools = t("chat.tools_wrong");
  if (fails(parseExtra, settings.extra)) errors.extra = t("chat.extra_wrong");
  return errors;
}

function fails(parse, text) {
  try {
    parse(text);
    return false;
  } catch {
    return true;
  }
}

function Sampling({ values, errors, onChange }) {
  const set = (name, text) => {
    const { [name]: _, ...others } = values;
    onChange(text.trim() === "" ? others : { ...others, [name]: Number(text) });
  };
  return html`<fieldset class="sampling">
    <legend>${t("chat.sampling")}</legend>
    <p class="help">${t("chat.sampling_help")} <a href="#/lab">${t("app.page.lab")}</a></p>
    <div class="sampling-fields">
      ${SAMPLING.map(({ name, min, max, step, usual }) => html`<${TextField} key=${name} type="number" inputmode="decimal"
        label=${t(`chat.parameters.${name}`)} error=${errors[name]} min=${min} max=${max} step=${step}
        placeholder=${usual === undefined ? t("chat.unset") : number(usual)} value=${values[name] ?? ""}
        onInput=${(text) => set(name, text)} />`)}
    </div>
  </fieldset>`;
}

function Presets({ draft, onUse, isWrong }) {
  const all = useStore(presets);
  const [chosen, setChosen] = useState("");
  const [name, setName] = useState("");
  const use = (value) => {
    setChosen(value);
    const preset = all.find((one) => one.name === value);
    if (!preset) return;
    const { name: title, ...settings } = preset;
    setName(title);
    onUse(settings);
  };
  const save = () => {
    savePreset(name.trim(), draft);
    setChosen(name.trim());
    toast(t("chat.preset_saved", { name: name.trim() }));
  };
  const remove = () => {
    removePreset(chosen);
    setChosen("");
  };
  const options = [{ value: "", label: t("chat.no_preset") }, ...all.map((one) => ({ value: one.name, label: one.name }))];
  return html`<div class="presets">
    <${Select} label=${t("chat.preset")} value=${chosen} options=${options} onChange=${use} />
    <${TextField} label=${t("chat.preset_name")} value=${name} onInput=${setName} maxlength="60" />
    <div class="row">
      <${Button} onClick=${save} disabled=${!name.trim() || isWrong}>${t("chat.save_preset")}<//>
      ${chosen && html`<${Button} kind="danger" onClick=${remove}>${t("chat.remove_preset")}<//>`}
    </div>
  </div>`;
}
