/** One message of the conversation. */

import { classes, html, useEffect, useErrorBoundary, useRef, useState } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { useStore } from "../../lib/store.js";
import { Button, IconButton } from "../../parts/button.js";
import { CopyButton } from "../../parts/copy.js";
import { Problem } from "../../parts/field.js";
import { Icon } from "../../parts/icon.js";
import { Reader } from "../../parts/live.js";
import { afterTokens, tokensOf } from "./answer.js";
import { Calls, Result } from "./calls.js";
import { Editor } from "./editor.js";
import { Markdown, PlainText } from "./markdown.js";
import { Reasoning } from "./reasoning.js";
import { imagesOf, textOf } from "./request.js";
import { isStreaming, TAB } from "./session.js";
import { Stats, Waiting } from "./stats.js";
import { Tokens } from "./tokens.js";

/**
 * A message.
 * @param {object} props `message`; `alternatives`: ids of the branches at this place; `actions`: what
 *     the user can do (see messages.js); `isBusy`: an answer streams; `callName`: of a result
 */
export function Message(props) {
  const [broken, repair] = useErrorBoundary((error) => console.error(error));
  useEffect(() => { if (broken) repair(); }, [props.message]); // its next version may be well
  return broken ? html`<${Broken} ...${props} error=${broken} />` : html`<${Whole} ...${props} />`;
}

/** A message that cannot be shown as it should be: the others stay usable. */
function Broken({ message, alternatives, actions, error }) {
  const text = textOf(message.content);
  return html`<article class="message" id=${`message-${message.id}`}>
    <${Problem} error=${String(error.message ?? error)} />
    ${text && html`<${PlainText} text=${text} />`}
    <footer class="message-actions"><${Branches} message=${message} alternatives=${alternatives} onChoose=${actions.showBranch} /></footer>
  </article>`;
}

function Whole(props) {
  const { role } = props.message;
  if (role === "tool") return html`<${Result} message=${props.message} name=${props.callName} />`;
  if (role === "system") return html`<${Instruction} message=${props.message} />`;
  return role === "assistant" ? html`<${AnswerMessage} ...${props} />` : html`<${UserMessage} ...${props} />`;
}

function UserMessage({ message, alternatives, actions, isBusy, isEditing }) {
  const text = textOf(message.content);
  return html`<article class="message user" aria-label=${t("chat.you")} id=${`message-${message.id}`}>
    <h2 class="unseen">${t("chat.you")}</h2>
    ${isEditing
      ? html`<${Editor} message=${message} onDone=${actions.endEdit} onSend=${(content) => actions.edit(message, content)} />`
      : html`<div class="bubble">
          <${Images} message=${message} />
          ${text && html`<${PlainText} text=${text} />`}
        </div>`}
    ${!isEditing && html`<footer class="message-actions">
      <${Branches} message=${message} alternatives=${alternatives} onChoose=${actions.showBranch} />
      <${CopyButton} text=${text} label=${t("chat.copy_message")} />
      ${!isBusy && html`<${IconButton} icon="edit" label=${t("chat.edit")} onClick=${() => actions.beginEdit(message.id)} />`}
    </footer>`}
  </article>`;
}

/** A message of the system, which imported conversations may have. */
function Instruction({ message }) {
  return html`<details class="result">
    <summary><${Icon} name="info" /><span>${t("chat.system")}</span></summary>
    <div><${PlainText} text=${textOf(message.content)} /></div>
  </details>`;
}

function Images({ message }) {
  const images = imagesOf(message.content);
  if (!images.length) return null;
  return html`<div class="message-images">
    ${images.map((url, index) => html`<img key=${index} src=${url} alt=${t("chat.image_number", { count: index + 1 })} loading="lazy" />`)}
  </div>`;
}

function AnswerMessage({ message, alternatives, actions, isBusy, session, showTokens }) {
  const live = useStore(session.live, (value) => (value?.id === message.id ? value : null));
  const isRunning = live !== null;
  const isLost = useLost(message, isRunning);
  const shown = live ?? stored(message);
  useSpeech(live, message);
  const isUnfinished = ["stopped", "failed"].includes(message.status) || isLost
    || message.data?.finish_reason === "length";
  const hasTokens = showTokens && shown.tokens.length > 0;
  return html`<article class="message answer" aria-label=${t("chat.answer")} aria-busy=${isRunning} id=${`message-${message.id}`}>
    <h2 class="unseen">${t("chat.answer")}</h2>
    ${shown.reasoning && html`<${Reasoning} text=${shown.reasoning} milliseconds=${shown.reasoningMs}
      isRunning=${isRunning && !shown.content && !shown.calls.length} />`}
    ${hasTokens
      ? html`<${Tokens} tokens=${shown.tokens} count=${shown.tokens.length} onOpen=${(index) => actions.openLab(message, shown.tokens, index)} />
        <${Markdown} text=${afterTokens(shown.content, shown.tokens)} done=${!isRunning} />`
      : shown.content && html`<${Markdown} text=${shown.content} done=${!isRunning} />`}
    ${shown.calls.length > 0 && html`<${Calls} calls=${shown.calls} />`}
    ${isRunning && !shown.hasBegun && html`<${Waiting} progress=${shown.progress} queue=${shown.queue} />`}
    ${!isRunning && html`<${State} message=${message} isLost=${isLost} isUnfinished=${isUnfinished} isBusy=${isBusy} actions=${actions} />`}
    <footer class="message-actions">
      <${Branches} message=${message} alternatives=${alternatives} onChoose=${actions.showBranch} />
      ${!isRunning && html`<${CopyButton} text=${shown.content} label=${t("chat.copy_message")} />`}
      ${!isBusy && html`<${IconButton} icon="retry" label=${t("chat.retry")} onClick=${() => actions.retry(message)} />`}
      <${Stats} timings=${shown.timings} usage=${message.data?.usage} model=${message.model} isRunning=${isRunning} />
    </footer>
  </article>`;
}

/** A message of the history in the form of an answer that streams. */
function stored({ content, reasoning, tool_calls: calls, data }) {
  return {
    content: textOf(content), reasoning: reasoning ?? "", calls: calls ?? [], tokens: tokensOf(data),
    timings: data?.timings ?? null, progress: null, hasBegun: true, reasoningMs: data?.reasoning_ms ?? null,
  };
}

/** Milliseconds without a change after which an answer of another tab or device counts as lost. */
const LOST_MS = 8_000;
/** The same before its first word: a model may have to be loaded, and a long prompt to be read. */
const SILENT_MS = 180_000;

/** Whether a message is marked as running, but nothing writes it any more. */
function useLost(message, isRunning) {
  const isOpen = message.status === "running" && !isRunning && !isStreaming(message.id);
  const isOwn = message.data?.tab === TAB;
  const [waited, setWaited] = useState(null);
  useEffect(() => {
    if (!isOpen || isOwn) return undefined;
    const hasBegun = Boolean(textOf(message.content) || message.reasoning);
    const timer = setTimeout(() => setWaited(message), hasBegun ? LOST_MS : SILENT_MS);
    return () => clearTimeout(timer);
  }, [message, isOpen, isOwn]);
  return isOpen && (isOwn || waited === message);
}

/** Has screen readers say the sentences of an answer as they become whole. */
function useSpeech(live, message) {
  const reader = useRef(null);
  useEffect(() => {
    if (live) {
      reader.current ??= new Reader();
      reader.current.read(plain(live.content));
    } else if (reader.current) {
      reader.current.read(plain(textOf(message.content)), true);
      reader.current = null;
    }
  }, [live]);
}

/** Signs of Markdown are not read out; each becomes a space, so that places stay the same. */
function plain(text) {
  return text.replace(/[*_`#|>$]/g, " ");
}

/** Why an answer is not whole, and what the user can do. */
function State({ message, isLost, isUnfinished, isBusy, actions }) {
  const { error } = message.data ?? {};
  const canContinue = isUnfinished && !isBusy && Boolean(textOf(message.content)) && !message.tool_calls?.length;
  return html`
    ${error && html`<${Problem} error=${problemText(error)} />`}
    ${message.status === "running" && !isLost && html`<p class="muted small">${t("chat.elsewhere")}</p>`}
    ${(isUnfinished || isLost) && html`<div class="unfinished">
      <span class="badge warn">${t(reasonOf(message, isLost))}</span>
      ${canContinue && html`<${Button} icon="play" onClick=${() => actions.continueAnswer(message)}>${t("chat.continue")}<//>`}
      ${!canContinue && !isBusy && html`<${Button} icon="retry" onClick=${() => actions.retry(message)}>${t("chat.retry")}<//>`}
    </div>`}`;
}

function reasonOf({ status, data, content }, isLost) {
  const hasText = Boolean(textOf(content));
  if (isLost) return "chat.state.interrupted";
  if (status === "stopped") return "chat.state.stopped";
  if (status === "failed") return hasText ? "chat.state.cut" : "chat.state.failed";
  return data?.finish_reason === "length" ? "chat.state.length" : "chat.state.cut";
}

function problemText({ code, message }) {
  if (code === "away") return t("chat.error.away");
  if (code === "cut") return t("chat.error.cut");
  return String(message ?? code);
}

/** Switches between the alternatives of a message. */
function Branches({ message, alternatives, onChoose }) {
  if (alternatives.length < 2) return null;
  const at = Math.max(0, alternatives.indexOf(message.id));
  const { length } = alternatives;
  const button = (step, icon, label) => html`<${IconButton} icon=${icon} label=${label}
    disabled=${!alternatives[at + step]} onClick=${() => onChoose(alternatives[at + step])} />`;
  return html`<div class=${classes("branches")} role="group" aria-label=${t("chat.branches")}>
    ${button(-1, "back", t("chat.previous_branch"))}
    <span class="branch-number">${t("chat.branch_number", { number: at + 1, count: length })}</span>
    ${button(1, "forward", t("chat.next_branch"))}
  </div>`;
}
