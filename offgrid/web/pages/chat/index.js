/** The chat page: conversations on one side, the open one on the other. */

import { html, useEffect, useMemo, useRef, useState } from "../../lib/dom.js";
import { connection } from "../../lib/connection.js";
import { t } from "../../lib/i18n.js";
import { navigate, route } from "../../lib/router.js";
import { useStore } from "../../lib/store.js";
import { Button, IconButton } from "../../parts/button.js";
import { Problem } from "../../parts/field.js";
import { Icon } from "../../parts/icon.js";
import { announce } from "../../parts/live.js";
import { useStyle } from "../../parts/style.js";
import { Composer } from "./composer.js";
import { openLab } from "./lab.js";
import { Messages, Scroller } from "./messages.js";
import { models, useModels } from "./models.js";
import { SettingsPanel } from "./panel.js";
import { ModelPicker } from "./picker.js";
import { modelOf } from "./request.js";
import { openSession } from "./session.js";
import { lastSettings, presets, probabilities, rememberSettings, setProbabilities } from "./settings.js";
import { Sidebar } from "./sidebar.js";

export default function Chat() {
  const ready = [useStyle("style/chat.css"), useStyle("style/markdown.css")].every(Boolean);
  const { id } = useStore(route);
  const session = useSession(id);
  const [isOpen, setOpen] = useState(false);
  if (!ready) return null;
  const select = (chosen) => {
    setOpen(false);
    navigate("chat", chosen);
  };
  return html`<div class="chat">
    <${Sidebar} isOpen=${isOpen} onClose=${() => setOpen(false)} selected=${id} onSelect=${select} onNew=${() => select(null)} />
    <${Conversation} key=${session.key} session=${session.value} onMenu=${() => setOpen(true)} onNew=${() => select(null)} />
  </div>`;
}

let opened = 0;

/**
 * The session of the conversation in the address. A new conversation gets an id with its first
 * message; the session stays the same then.
 */
function useSession(id) {
  const current = useRef(null);
  const isSame = current.current && (current.current.value.id === id || current.current.address === id);
  if (!isSame) {
    current.current?.value.hide();
    opened += 1;
    current.current = { value: openSession(id), key: opened, address: id };
  }
  const { value } = current.current;
  useEffect(() => {
    value.show();
    const follow = (state) => {
      if (!state.id || current.current.value !== value || route.value.page !== "chat") return;
      if (current.current.address === state.id) return;
      current.current.address = state.id;
      navigate("chat", state.id, { replace: true });
    };
    follow(value.conversation.state.value);
    return value.conversation.state.subscribe(follow);
  }, [value]);
  useEffect(() => () => current.current.value.hide(), []);
  return current.current;
}

function Conversation({ session, onMenu, onNew }) {
  const state = useStore(session.conversation.state);
  const isRunning = useStore(session.live, (live) => live !== null);
  const isWaiting = useStore(session.live, (live) => live !== null && !live.hasBegun);
  const showTokens = useStore(probabilities);
  const { online } = useStore(connection);
  const { list } = useStore(models);
  const [panel, setPanel] = useState(false);
  const [editing, setEditing] = useState(null);
  const { settings, change } = useSettings(session, state);
  const model = modelOf(list, settings.model);
  const asked = { ...settings, model: model?.id ?? settings.model };
  // A message to a conversation that was not read yet would not follow its last one.
  const isUnread = state.id !== null && state.conversation === null;
  useModels(isWaiting || model?.status === "loading" || model?.status === "waiting");
  useTitle(state);
  const actions = useActions({ session, state, asked, setEditing });
  const editLast = () => setEditing(state.path.findLast(({ role }) => role === "user")?.id ?? null);
  return html`<section class="chat-main" onKeyDown=${(event) => stopByKey(event, isRunning, session)}>
    <header class="chat-bar">
      <${IconButton} class="only-narrow" icon="menu" label=${t("chat.conversations")} onClick=${onMenu} />
      <h1 class="chat-title" tabindex="-1" dir="auto">${state.conversation?.title || t("chat.new")}</h1>
      <${ModelPicker} model=${model} onChoose=${(id) => change({ model: id })} />
      <div class="chat-tools">
        <${IconButton} icon="eye" label=${t("chat.probabilities")} pressed=${showTokens} onClick=${() => setProbabilities(!showTokens)} />
        <${IconButton} icon="settings" class=${settings.system || settings.tools ? "in-use" : ""} label=${t("chat.settings")} onClick=${() => setPanel(true)} />
        <${IconButton} class="only-narrow" icon="plus" label=${t("chat.new")} onClick=${onNew} />
      </div>
    </header>
    <${Notices} state=${state} session=${session} />
    ${model && settings.model && settings.model !== model.id && html`<p class="muted small not-stored" role="status" dir="auto">${t("chat.model_gone", { model: settings.model, other: model.id })}</p>`}
    <${Scroller} id=${state.id ?? "new"}>
      ${state.loading && !state.path.length && html`<p class="waiting"><span class="spinner"></span>${t("chat.opening")}</p>`}
      ${!state.loading && !state.path.length && html`<${Welcome} model=${model} onPreset=${change} />`}
      <${Messages} state=${state} session=${session} actions=${actions} isBusy=${isRunning} editing=${editing} showTokens=${showTokens} />
    <//>
    <${Composer} id=${state.id} isRunning=${isRunning} isEditing=${editing !== null} isAway=${!online || isUnread} seesImages=${Boolean(model?.vision)}
      onSend=${(content) => actions.send(content)} onStop=${() => session.stop()} onEditLast=${editLast} />
    ${panel && html`<${SettingsPanel} settings=${settings} model=${model} onClose=${() => setPanel(false)} onSave=${(next) => { change(next); setPanel(false); }} />`}
  </section>`;
}

/** Escape stops the answer, unless it closes something or ends the input of a word. */
function stopByKey(event, isRunning, session) {
  if (event.key !== "Escape" || !isRunning || event.defaultPrevented || event.isComposing) return;
  if (!event.target.closest("dialog")) session.stop();
}

function useTitle({ conversation }) {
  const title = `${conversation?.title || t("app.page.chat")} \u00b7 ${t("app.name")}`;
  useEffect(() => {
    document.title = title;
  }, [title]);
}

/** The settings of the conversation; those of the next one, if it has none yet. */
function useSettings(session, state) {
  const last = useStore(lastSettings);
  const [fresh, setFresh] = useState({});
  const stored = state.conversation?.settings;
  const hasOwn = stored && Object.keys(stored).length > 0;
  const settings = useMemo(() => (hasOwn ? stored : { ...last, ...fresh }), [hasOwn, stored, last, fresh]);
  const change = (members) => {
    const next = { ...settings, ...members };
    rememberSettings(next);
    if (state.id) session.conversation.setSettings(next);
    else setFresh(next);
  };
  return { settings, change };
}

/** What the user can do. The object stays the same, so that messages are not rendered again. */
function useActions({ session, state, asked, setEditing }) {
  const now = useRef(null);
  now.current = { session, state, asked };
  return useMemo(() => ({
    send: (content) => now.current.session.send(content, now.current.asked),
    retry: (message) => now.current.session.retry(message, now.current.asked),
    continueAnswer: (message) => now.current.session.continueAnswer(message, now.current.asked),
    giveResults: (message, results) => now.current.session.giveResults(message, results, now.current.asked),
    edit(message, content) {
      setEditing(null);
      now.current.session.edit(message, content, now.current.asked);
    },
    beginEdit: setEditing,
    endEdit: () => setEditing(null),
    showBranch: (id) => now.current.session.conversation.setHead(id),
    openLab(message, tokens, index) {
      const { path } = now.current.state;
      const before = path.slice(0, path.findIndex(({ id }) => id === message.id));
      openLab(before, message, now.current.asked, tokens, index);
    },
  }), []);
}

/** What the user must know about how the conversation is kept. */
function Notices({ state, session }) {
  return html`
    ${state.error && html`<${Problem} error=${state.error} />`}
    ${state.deleted && html`<div class="banner"><${Icon} name="alert" /><span>${t("chat.deleted")}</span>
      ${state.path.length > 0 && html`<button type="button" class="link" onClick=${() => session.conversation.saveAgain()}>${t("chat.save_again")}</button>`}</div>`}
    ${!state.deleted && state.stored === false && state.path.length > 0 && html`<p class="muted small not-stored">${t("chat.not_stored")}</p>`}`;
}

function Welcome({ model, onPreset }) {
  const all = useStore(presets);
  const use = ({ name, ...settings }) => {
    onPreset(settings);
    announce(t("chat.preset_used", { name }));
  };
  return html`<div class="welcome">
    <p class="welcome-title">${t("chat.welcome")}</p>
    <p class="muted">${model ? t("chat.welcome_model", { model: model.id }) : t("chat.welcome_text")}</p>
    ${all.length > 0 && html`<div class="welcome-presets" role="group" aria-label=${t("chat.presets")}>
      ${all.map((preset) => html`<${Button} key=${preset.name} onClick=${() => use(preset)}>${preset.name}<//>`)}
    </div>`}
  </div>`;
}
