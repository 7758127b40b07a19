/** The messages of a conversation, the latest one at the end. */

import { html, useEffect, useLayoutEffect, useRef, useState } from "../../lib/dom.js";
import { language, t } from "../../lib/i18n.js";
import { useStore } from "../../lib/store.js";
import { IconButton } from "../../parts/button.js";
import { alternativesOf, openCalls } from "./branches.js";
import { ResultForm } from "./calls.js";
import { Message } from "./message.js";

/** Pixels from the end at which the page still follows an answer. */
const NEAR = 80;

/**
 * @param {object} props `state`: of the conversation; `session`; `actions`: {retry, edit,
 *     continueAnswer, showBranch, beginEdit, endEdit, openLab, giveResults}, the same object every
 *     time; `isBusy`; `editing`: id of the message that is changed; `showTokens`
 */
export function Messages({ state, session, actions, isBusy, editing, showTokens }) {
  const code = useStore(language);
  const cache = useRef(new Map());
  const alternatives = alternativesOf(state.messages, state.path);
  const names = callNames(state.path);
  const calls = isBusy ? null : openCalls(state.path);
  const entries = new Map();
  const first = useFirst(state.path.length);
  const shown = state.path.slice(first).map((message) => {
    const branches = alternatives.get(message.id);
    const callName = names.get(message.tool_call_id);
    const isEditing = editing === message.id;
    const needs = [message, branches.join(), callName, isBusy, isEditing, showTokens, code];
    const known = cache.current.get(message.id);
    // The same element is not compared again: only messages that have changed cost anything.
    const isSame = known?.needs.every((need, index) => Object.is(need, needs[index]));
    const entry = isSame ? known : { needs, element: html`<${Message} key=${message.id}
      message=${message} alternatives=${branches} callName=${callName} isBusy=${isBusy}
      isEditing=${isEditing} showTokens=${showTokens} actions=${actions} session=${session} />` };
    entries.set(message.id, entry);
    return entry.element;
  });
  cache.current = entries;
  return html`<div class="messages">
    ${shown}
    ${calls && html`<${ResultForm} key=${calls.message.id} calls=${calls.calls} onGive=${(results) => actions.giveResults(calls.message, results)} />`}
  </div>`;
}

/** Messages that are added to the page at once. */
const PORTION = 20;

/**
 * The first message that is shown. A long conversation is opened from its end, in portions, so that
 * the page can be used meanwhile.
 */
function useFirst(count) {
  const [hidden, setHidden] = useState(() => Math.max(0, count - PORTION));
  const wasEmpty = useRef(count === 0);
  useLayoutEffect(() => {
    if (!wasEmpty.current || count === 0) return;
    wasEmpty.current = false;
    setHidden(Math.max(0, count - PORTION));
  }, [count]);
  useEffect(() => {
    if (!hidden) return undefined;
    const timer = setTimeout(() => setHidden(Math.max(0, hidden - PORTION)), 30);
    return () => clearTimeout(timer);
  }, [hidden]);
  return wasEmpty.current ? Math.max(0, count - PORTION) : Math.min(hidden, count);
}

/** The names of functions by the ids of their calls. */
function callNames(path) {
  const all = path.flatMap((message) => message.tool_calls ?? []);
  return new Map(all.map((call) => [call.id, call.function?.name]));
}

/**
 * A box that stays at its end while an answer grows, unless the user has scrolled up.
 * @param {object} props `id`: another one begins at its end; `children`
 */
export function Scroller({ id, children }) {
  const box = useRef(null);
  const content = useRef(null);
  const follows = useRef(true);
  const [isAway, setAway] = useState(false);
  const toEnd = () => {
    if (!box.current) return;
    follows.current = true;
    box.current.scrollTop = box.current.scrollHeight;
  };
  const last = useRef(0);
  const look = () => {
    if (!box.current) return;
    const { scrollTop, scrollHeight, clientHeight } = box.current;
    const isNear = scrollHeight - scrollTop - clientHeight < NEAR;
    // Content that grows scrolls nothing; only the user scrolls up.
    if (isNear) follows.current = true;
    else if (scrollTop < last.current - 2) follows.current = false;
    last.current = scrollTop;
    setAway(!isNear && !follows.current);
  };
  useLayoutEffect(toEnd, [id]);
  useEffect(() => {
    const observer = new ResizeObserver(() => (follows.current ? toEnd() : look()));
    observer.observe(content.current);
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  return html`<div class="chat-scroll-box">
    <div class="chat-scroll" ref=${box} onScroll=${look} tabindex="0" role="region" aria-label=${t("chat.messages")}>
      <div class="chat-content" ref=${content}>${children}</div>
    </div>
    ${isAway && html`<${IconButton} class="to-end" icon="down" label=${t("chat.to_end")} onClick=${() => { toEnd(); setAway(false); }} />`}
  </div>`;
}
