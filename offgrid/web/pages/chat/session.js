/**
 * What the user does with a conversation: send, stop, retry, edit, continue, answer a call.
 *
 * A session outlives the page that shows it: while an answer streams, the user may look at another
 * conversation. It ends when no page shows it and nothing streams; without a history on the server it
 * ends with the tab, because the conversation is nowhere else.
 */

import { api, send } from "../../lib/api.js";
import { Store } from "../../lib/store.js";
import { Answer, isDue } from "./answer.js";
import { openConversation } from "./history/sync.js";
import { chatRequest, textOf, titleOf } from "./request.js";
import { probabilities } from "./settings.js";

/** Milliseconds between two savings of an answer that grows; more if it is long. */
const SAVE_MS = 1_000;

/** Characters of an answer that a page can still send when it is left: browsers allow 64 KiB. */
const MAX_LAST = 15_000;

const TAB_ITEM = "offgrid.tab";

/**
 * Names this tab, so that after a reload it knows its own unfinished answer. The name is stored only
 * while the page is away: a tab that is duplicated gets another one.
 */
export const TAB = ofTab((storage) => storage.getItem(TAB_ITEM)) ?? Math.random().toString(36).slice(2);

/** What a function returns of the tab's storage; null if the browser allows none. */
function ofTab(use) {
  try {
    return use(sessionStorage);
  } catch {
    return null;
  }
}

export class Session {
  /** @type {import("./history/types.js").Conversation} */
  conversation;
  /** The answer that streams: null, or {id, content, reasoning, calls, tokens, timings, progress}. */
  live = new Store(null);

  #abort = null;
  #answer = null;
  #frame = 0;
  #isShown = true;

  constructor(id) {
    this.conversation = openConversation(id);
  }

  get id() {
    return this.conversation.state.value.id;
  }

  get isRunning() {
    return this.#abort !== null;
  }

  /** Adds a message of the user, and lets the model answer. */
  send(content, settings) {
    const { messages, conversation: known } = this.conversation.state.value;
    const isFirst = messages.length === 0;
    const message = this.conversation.append({ role: "user", content, status: "done" });
    if (isFirst) {
      if (!known?.title) this.conversation.rename(titleOf(textOf(content)));
      this.conversation.setSettings(settings);
    }
    return this.#run(message.id, settings);
  }

  /** Adds another version of a message of the user as a branch, and lets the model answer it. */
  edit(message, content, settings) {
    const { id } = this.conversation.append({
      role: "user", content, parent: message.parent ?? null, status: "done",
    });
    return this.#run(id, settings);
  }

  /** Lets the model answer once more, as a branch. */
  retry(message, settings) {
    return this.#run(message.role === "assistant" ? message.parent : message.id, settings);
  }

  /** Gives the results of calls, by the ids of the calls, and lets the model go on. */
  giveResults(message, results, settings) {
    let parent = this.conversation.state.value.head;
    for (const [callId, content] of results) {
      const added = { role: "tool", content, tool_call_id: callId, parent, status: "done" };
      parent = this.conversation.append(added).id;
    }
    return this.#run(parent, settings);
  }

  /**
   * Continues an answer that was stopped, cut off or too long. What is finished cannot change, so
   * the longer answer is another message, unless the old one is still marked as running.
   */
  continueAnswer(message, settings) {
    return this.#run(message.parent, settings, message);
  }

  /** Ends the answer that streams, and keeps what has come. */
  stop() {
    this.#abort?.abort();
  }

  /** Saves the answer that streams: the page may be gone in a moment. */
  saveNow() {
    if (!this.#answer) return;
    this.#save("running");
    const { id, stored, messages } = this.conversation.state.value;
    const message = messages.find((one) => one.id === this.#answer.id);
    if (!stored || !message || message.content.length > MAX_LAST) return;
    const { revision, ...whole } = message;
    // The history sends it after a reload; other devices do not wait for that.
    const options = { body: { messages: [whole] }, keepalive: true, quiet: true };
    send("POST", `v1/history/${id}/messages`, options).catch(() => {});
  }

  show() {
    this.#isShown = true;
  }

  hide() {
    this.#isShown = false;
    this.#closeIfUnused();
  }

  #closeIfUnused() {
    const { stored, messages } = this.conversation.state.value;
    const isOnlyHere = !stored && messages.length > 0;
    if (this.#isShown || this.isRunning || isOnlyHere) return;
    forget(this);
    this.conversation.close();
  }

  async #run(parent, settings, continued = null) {
    if (this.isRunning) return;
    this.#abort = new AbortController();
    const answer = new Answer(continued ? { ...continued, content: textOf(continued.content) } : {});
    const { id } = this.#begin(parent, settings, continued);
    this.#answer = { id, answer, continued, savedAt: performance.now() };
    this.#publish();
    const timer = setInterval(() => this.#saveIfDue(), SAVE_MS);
    let error = null;
    try {
      await this.#stream(id, settings, answer, continued);
    } catch (thrown) {
      error = thrown;
    } finally {
      clearInterval(timer);
      this.#end(error);
    }
  }

  /** Makes the message of the answer. */
  #begin(parent, settings, continued) {
    if (continued?.status === "running") {
      // From now on this tab writes it, also if another device ends it.
      this.conversation.update(continued.id, { data: { ...continued.data, tab: TAB } });
      return continued;
    }
    return this.conversation.append({
      role: "assistant",
      parent: parent ?? null,
      content: textOf(continued?.content ?? ""),
      reasoning: continued?.reasoning ?? null,
      status: "running",
      model: settings.model ?? null,
      data: { tab: TAB, ...(continued && { continues: continued.id }) },
    });
  }

  async #stream(id, settings, answer, continued) {
    const path = pathTo(this.conversation.state.value.messages, id);
    if (!continued) path.pop();
    const body = chatRequest(path, settings, {
      probabilities: probabilities.value && !continued,
      isContinued: Boolean(continued),
    });
    const { signal } = this.#abort;
    const onComment = (comment) => {
      answer.addComment(comment);
      this.#publishSoon();
    };
    for await (const { data } of api.stream("v1/chat/completions", body, { signal, onComment })) {
      answer.add(data, performance.now());
      this.#publishSoon();
    }
    // A proxy may end a stream as if it were whole.
    if (!answer.finish) throw Object.assign(new Error("The answer was cut off."), { code: "cut" });
  }

  #end(error) {
    const isStopped = error?.name === "AbortError";
    // A page that goes away loses its connections; its answer has not failed.
    const failed = isLeaving ? "running" : "failed";
    const status = isStopped ? "stopped" : error ? failed : "done";
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#save(status, status === "failed" ? describe(error) : null);
    this.#answer = null;
    this.#abort = null;
    this.live.set(null);
    this.#closeIfUnused();
  }

  #saveIfDue() {
    const { answer, savedAt } = this.#answer;
    const length = answer.content.length + answer.reasoning.length;
    if (!answer.hasBegun || !isDue((performance.now() - savedAt) / 1000, length)) return;
    this.#answer.savedAt = performance.now();
    this.#save("running");
  }

  #save(status, error = null) {
    const { id, answer, continued } = this.#answer;
    const about = answer.about();
    // The probabilities are many; they are sent once.
    if (status === "running") delete about.tokens;
    this.conversation.update(id, {
      ...answer.patch(),
      status,
      ...(answer.model && { model: answer.model }),
      data: {
        ...(status === "running" && { tab: TAB }),
        ...(continued && continued.id !== id && { continues: continued.id }),
        ...about,
        ...(error && { error }),
      },
    });
  }

  #publishSoon() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#publish();
    });
  }

  #publish() {
    if (!this.#answer) return;
    const { id, answer } = this.#answer;
    const { content, reasoning, calls, tokens, timings, progress, queue, hasBegun, reasoningMs } = answer;
    // A new object each time, because the list of tokens is the same one.
    this.live.set({ id, content, reasoning, calls, tokens, timings, progress, queue, hasBegun, reasoningMs });
  }
}

function describe(error) {
  return { message: error.message ?? String(error), code: error.code ?? null };
}

/** The messages from the first one to a given one. */
function pathTo(messages, id) {
  const byId = new Map(messages.map((message) => [message.id, message]));
  const path = [];
  for (let at = byId.get(id); at; at = byId.get(at.parent)) path.unshift(at);
  return path;
}

const sessions = new Set();

/**
 * The session of a conversation: one that still streams, or a new one.
 * @param {string|null} id null for a conversation that does not exist yet
 */
export function openSession(id) {
  const known = id && [...sessions].find((session) => session.id === id);
  if (known) {
    known.show();
    return known;
  }
  const session = new Session(id);
  sessions.add(session);
  return session;
}

function forget(session) {
  sessions.delete(session);
}

/** Whether an answer streams into this tab. */
export function isStreaming(messageId) {
  return [...sessions].some((session) => session.live.value?.id === messageId);
}

/** Whether the page is being left. */
let isLeaving = false;

/** The page is here, for the first time or again. */
function arrive() {
  isLeaving = false;
  ofTab((storage) => storage.removeItem(TAB_ITEM));
}

arrive();
addEventListener("pageshow", arrive);
addEventListener("pagehide", () => {
  isLeaving = true;
  ofTab((storage) => storage.setItem(TAB_ITEM, TAB));
  for (const session of sessions) session.saveNow();
});
