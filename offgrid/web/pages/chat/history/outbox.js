/**
 * What the server does not have yet of one conversation. It survives a reload: this browser
 * remembers it until it is sent.
 *
 * @typedef {import("./types.js").Message} Message
 */

import { keyMark } from "../../../lib/key.js";
import { recall, remember, remembered } from "../../../lib/local.js";
import { MOST, portion } from "./portion.js";
import { PATH, pathOf } from "./server.js";

/** What the names of all that is unsent begin with, for the key in use. */
function prefix() {
  return `history.unsent.${keyMark()}.`;
}

/** Names this tab: two tabs with one conversation must not overwrite what the other remembers. */
const TAB = Math.random().toString(36).slice(2, 10);

/** Outboxes that this browser has no room for: they end with the page. */
const atRisk = new Set();

// The browser asks the user whether to leave the page.
addEventListener("beforeunload", (event) => atRisk.size && event.preventDefault());

export class Outbox {
  /** Whether the conversation is new, and so has to be made. */
  create = false;
  /** New values of title, pinned, head and settings. */
  fields = {};
  /** @type {Map<string, Message>} new and changed messages, parents first */
  messages = new Map();

  #id = null;
  #name = null;
  #isStopped = false;
  /** Whether something was written while the server could not take it. */
  #hasWaited = false;
  #adopted = [];
  /** The most messages of the next request. */
  #most = MOST.messages;

  /** Remember for a conversation from now on, and take over what was left before. */
  open(id) {
    if (this.#name) return;
    this.#id = id;
    this.#name = this.#ownName();
    for (const name of remembered(`${prefix()}${id}.`)) {
      const left = recall(name);
      if (!left) continue;
      if (name !== this.#name) this.#adopted.push([name, JSON.stringify(left)]);
      this.create ||= left.create;
      this.fields = { ...left.fields, ...this.fields };
      for (const message of left.messages) this.messages.set(message.id, message);
    }
    this.#hasWaited = !this.isEmpty;
    this.keep();
  }

  #ownName() {
    return `${prefix()}${this.#id}.${TAB}`;
  }

  /** Remember for the key in use: it has replaced the one that was in use before. */
  move() {
    const [before, now] = [this.#name, this.#ownName()];
    if (!before || before === now) return;
    this.#name = now;
    this.keep();
    if (!this.#isStopped) remember(before, null);
  }

  /** The server could not be reached, or was busy. */
  wait() {
    this.#hasWaited = true;
  }

  get isEmpty() {
    return !this.create && !this.messages.size && !Object.keys(this.fields).length;
  }

  /** Remember the present contents. */
  keep() {
    if (!this.#name || this.#isStopped) return;
    const { create, fields, messages } = this;
    const isKept = remember(this.#name, this.isEmpty ? null : { create, fields, messages: [...messages.values()] });
    if (isKept || this.isEmpty) atRisk.delete(this);
    else atRisk.add(this);
    if (!this.isEmpty) return;
    this.#hasWaited = false;
    this.#forgetAdopted();
  }

  /** What an earlier tab left is sent. If that tab still lives and left more, that stays. */
  #forgetAdopted() {
    for (const [name, text] of this.#adopted) {
      if (JSON.stringify(recall(name)) === text) remember(name, null);
    }
    this.#adopted = [];
  }

  /** Note a message, or another version of it. */
  put(message) {
    if (this.#isStopped) return;
    this.messages.set(message.id, message);
    this.keep();
  }

  /** Note new values of fields. */
  set(fields) {
    if (this.#isStopped) return;
    this.fields = { ...this.fields, ...fields };
    this.keep();
  }

  /**
   * What the next request says.
   * @param {string} id of the conversation
   * @param {string|null} shown id of the message that the page shows last
   * @returns {{path: string, body: object, create?: boolean, fields: object, messages: Message[]}}
   *     fields and messages are those that the server has afterwards
   */
  parcel(id, shown) {
    const messages = portion([...this.messages.values()], { messages: this.#most });
    const { head, ...others } = this.fields;
    // The head may be a message of a later request.
    const isWhole = messages.length === this.messages.size;
    const place = isWhole && head ? { head } : {};
    if (this.create) {
      const fields = { ...others, ...place };
      return { path: PATH, body: { id, ...fields, messages }, create: true, fields, messages };
    }
    if (!messages.length) {
      const fields = { ...this.fields };
      return { path: pathOf(id), body: fields, fields, messages };
    }
    const body = isWhole && shown ? { messages, head: shown } : { messages };
    return { path: `${pathOf(id)}/messages`, body, fields: place, messages };
  }

  /** Drop what was sent, unless it has changed since. */
  sent({ create = false, fields = {}, messages = [] }) {
    this.#most = Math.min(this.#most * 2, MOST.messages);
    if (create) this.create = false;
    for (const [name, value] of Object.entries(fields)) {
      if (this.fields[name] === value) delete this.fields[name];
    }
    for (const message of messages) {
      if (this.messages.get(message.id) === message) this.messages.delete(message.id);
    }
    this.keep();
  }

  /**
   * The server does not take some messages: try fewer, so that those before the one at fault are stored.
   * Returns whether that is possible.
   */
  divide(messages) {
    this.#most = Math.max(1, Math.floor(messages.length / 2));
    return messages.length > 1;
  }

  /** Replace all messages; the head is shown last. */
  replace(messages, head) {
    this.messages = new Map(messages.map((message) => [message.id, message]));
    if ("head" in this.fields) this.fields = { ...this.fields, head };
    this.keep();
  }

  /** Forget everything, and take nothing more: the conversation is deleted. */
  drop() {
    this.#end(this.#isOfKey);
  }

  /**
   * Send nothing, and take nothing more: the server stores nothing now. What has waited for the server
   * stays remembered, because it may be stored later; what was written only now leaves nothing.
   */
  stop() {
    this.#end(this.#isOfKey && !this.#hasWaited);
  }

  /** Whether it belongs to the key in use. What belongs to another one is not forgotten. */
  get #isOfKey() {
    return Boolean(this.#name?.startsWith(prefix()));
  }

  #end(isForgotten) {
    this.create = false;
    this.fields = {};
    this.messages.clear();
    if (isForgotten) this.keep();
    this.#isStopped = true;
  }
}

/** The ids of conversations of which something is unsent. */
export function unsentConversations() {
  const names = remembered(prefix()).filter((name) => recall(name) !== null);
  return [...new Set(names.map((name) => name.slice(prefix().length, name.lastIndexOf("."))))];
}
