/**
 * A conversation that is kept in step with the server.
 *
 * What the user does takes effect at once, and is sent afterwards: again and again while the server
 * is away, also after a reload. What other tabs and devices add is read every few seconds while the
 * page is visible. The shapes are in types.js.
 *
 * @typedef {import("./types.js").Message} Message
 * @typedef {import("./types.js").Conversation} Conversation
 */

import { api } from "../../../lib/api.js";
import { connection } from "../../../lib/connection.js";
import { keyStore } from "../../../lib/key.js";
import { self } from "../../../lib/self.js";
import { Store } from "../../../lib/store.js";
import { Owner } from "./owner.js";
import { Outbox, unsentConversations } from "./outbox.js";
import { isOff, isRefusal, isTemporary, isTooMuch, newId, newInfo, oneLine, readConversation, seconds, tellChange } from "./server.js";
import { branches, further, isOnPath, isRunning, leafOf, pathTo, withMessages } from "./tree.js";
import { watch } from "./watch.js";

export { historyEnabled, newId } from "./server.js";

/** Between two versions of a message that is running. */
const RUNNING_MS = 1_000;
const FIRST_RETRY_MS = 1_000;
const MOST_RETRY_MS = 30_000;

/**
 * Open a conversation; with null a new one, which is made with its first message.
 * @param {string|null} id
 * @returns {Conversation}
 */
export function openConversation(id) {
  const conversation = new SyncedConversation(id);
  sendLeftovers();
  return conversation;
}

/** The conversations that are open in this tab. */
const open = new Set();

/** Send what could not be sent before, of conversations that this tab does not have open. */
function sendLeftovers() {
  const ids = new Set([...open].map(({ state }) => state.value.id));
  for (const id of unsentConversations()) {
    if (ids.has(id)) continue;
    const left = new SyncedConversation(id);
    left.flush().finally(() => left.close());
  }
}

// The connection changes when it is lost, and when it comes back.
connection.subscribe(({ online }) => online && sendLeftovers());

class SyncedConversation {
  state = new Store(null);

  #id;
  #outbox = new Outbox();
  #owner = new Owner();
  #info = null;
  /** The revision up to which everything was read. */
  #seen = 0;
  #messages = [];
  #head = null;
  /** The fields as the user wants them, while the server does not have them. */
  #draft = { title: "", pinned: false, settings: {} };
  #flags = { loading: false, online: true, stored: true, deleted: false, error: null };
  /** Ids of messages that this tab streams. */
  #streams = new Set();
  /** Ids that were given -> ids in use, after another device finished a message in another way. */
  #renamed = new Map();

  #sending = null;
  #reading = null;
  #timer = null;
  #retryMs = FIRST_RETRY_MS;
  #lastSent = 0;
  #end;
  #isClosed = false;
  /** Whether somebody else uses the page: nothing is sent and read meanwhile. */
  #isPaused = false;

  constructor(id) {
    this.#id = id;
    open.add(this);
    if (id !== null) this.#recall();
    this.#publish();
    this.#end = this.#watch();
    if (id !== null) this.refresh().then(() => this.#schedule());
  }

  /** Begin with what an earlier tab could not send. */
  #recall() {
    this.#outbox.open(this.#id);
    this.#messages = [...this.#outbox.messages.values()];
    Object.assign(this.#draft, this.#outbox.fields);
    this.#head = this.#draft.head ?? this.#messages.at(-1)?.id ?? null;
    this.#flags.loading = !this.#outbox.create;
  }

  append(message) {
    this.#begin();
    const { id = newId(), parent = this.#head, created_at = seconds(), ...rest } = message;
    const after = this.#current(parent) ?? null;
    const added = { id, parent: after, status: "done", data: {}, ...rest, created_at };
    if (isRunning(added)) this.#streams.add(id);
    this.#messages = withMessages(this.#messages, [added]);
    this.#outbox.put(added);
    this.#moveHead(id);
    this.#changed();
    return added;
  }

  update(given, patch) {
    const id = this.#current(given);
    const old = this.#messages.find((message) => message.id === id);
    if (!old) return;
    const { revision, ...rest } = old;
    const next = { ...rest, status: "running", ...patch, id };
    if (!isRunning(old)) {
      // Another device has finished it. What still comes becomes a branch.
      if (!this.#streams.has(id)) return;
      next.id = this.#rename(id);
    }
    // Who lets a running answer go on writes it from now on.
    if (isRunning(next)) this.#streams.add(next.id);
    else this.#streams.delete(next.id);
    this.#messages = withMessages(this.#messages, [next]);
    this.#outbox.put(next);
    this.#changed();
  }

  #rename(id) {
    const other = newId();
    this.#noteName(id, other);
    if (this.#head === id) this.#moveHead(other);
    return other;
  }

  #noteName(id, other) {
    this.#renamed.set(id, other);
    if (this.#streams.delete(id)) this.#streams.add(other);
  }

  /** The id in use of a message; it may have got another one several times. */
  #current(given) {
    let id = given;
    while (this.#renamed.has(id)) id = this.#renamed.get(id);
    return id;
  }

  setHead(id) {
    const leaf = leafOf(this.#messages, this.#current(id));
    if (leaf === null || leaf === this.#head) return;
    this.#moveHead(leaf);
    this.#changed();
  }

  #moveHead(id) {
    this.#head = id;
    this.#outbox.set({ head: id });
  }

  rename(title) {
    this.#setField("title", oneLine(title));
  }

  setPinned(pinned) {
    this.#setField("pinned", pinned);
  }

  setSettings(settings) {
    this.#setField("settings", settings);
  }

  #setField(name, value) {
    if (JSON.stringify(this.#fields()[name]) === JSON.stringify(value)) return;
    this.#draft[name] = value;
    // A conversation without messages is not stored; its first message brings the fields along.
    if (this.#id !== null) this.#outbox.set({ [name]: value });
    this.#changed();
  }

  /** A new conversation gets its id with the first message. */
  #begin() {
    if (this.#id !== null) return;
    this.#id = newId("chat");
    this.#owner = new Owner();
    this.#outbox.open(this.#id);
    this.#outbox.create = true;
    this.#outbox.set({ ...this.#draft });
  }

  saveAgain() {
    Object.assign(this.#flags, { deleted: false, error: null });
    this.#seen = 0;
    const { title, pinned, settings } = this.#fields();
    this.#outbox.create = true;
    this.#outbox.set({ title, pinned, settings, head: this.#head });
    this.#outbox.replace(this.#messages.map(({ revision, ...message }) => message), this.#head);
    this.#changed();
  }

  async flush() {
    await this.#reading;
    while (this.#canSend()) {
      clearTimeout(this.#timer);
      this.#timer = null;
      const worked = await (this.#sending ??= this.#send().finally(() => (this.#sending = null)));
      if (!worked) return;
      if (this.#isOnlyRunning()) return this.#schedule();
    }
  }

  close() {
    if (this.#isClosed) return;
    if (this.#canSend()) this.flush(); // once more; what fails is remembered
    if (this.#flags.deleted) this.#outbox.drop();
    this.#isClosed = true;
    open.delete(this);
    clearTimeout(this.#timer);
    this.#end();
  }

  // Sending

  /** The user has changed something: show it and send it. */
  #changed() {
    this.#flags.error = null;
    this.#publish();
    this.#schedule();
  }

  #canSend() {
    const { stored, deleted, error } = this.#flags;
    return this.#id !== null && this.#owner.isHere && stored && !deleted && !error && !this.#outbox.isEmpty;
  }

  #schedule() {
    if (this.#sending || this.#isClosed || !this.#canSend()) return;
    const isPatient = this.#isOnlyRunning();
    if (this.#timer !== null && (isPatient || !this.#flags.online)) return;
    this.#sendAfter(isPatient ? Math.max(0, this.#lastSent + RUNNING_MS - Date.now()) : 0);
  }

  /** Whether nothing waits but longer versions of running messages. */
  #isOnlyRunning() {
    const { create, fields, messages } = this.#outbox;
    if (create || Object.keys(fields).length) return false;
    return [...messages.values()].every((message) => isRunning(message) && message.content);
  }

  #sendAfter(wait) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.flush();
    }, wait);
    this.#timer.unref?.();
  }

  /** Send one request. Returns whether more may be sent now. */
  async #send() {
    const parcel = this.#outbox.parcel(this.#id, this.#head);
    const key = keyStore.value;
    try {
      const info = await api.post(parcel.path, parcel.body, { sameKey: true });
      this.#lastSent = Date.now();
      this.#retryMs = FIRST_RETRY_MS;
      this.#outbox.sent(parcel);
      // If no other device has changed it, there is nothing to read.
      if (info.revision === this.#seen + 1) this.#seen = info.revision;
      this.#info = info;
      Object.assign(this.#flags, { online: true, loading: false });
      this.#publish();
      tellChange({ id: this.#id, by: this });
      return true;
    } catch (error) {
      return this.#failed(error, parcel.messages, key);
    }
  }

  /** Handle a refusal of a request with a key. Returns whether to go on at once. */
  async #failed(error, messages, key) {
    if (keyStore.value !== key) {
      return true; // it says nothing about the key in use
    } else if (isOff(error)) {
      this.#live();
    } else if (error.status === 409) {
      return this.#branchOff(messages, error, key);
    } else if (error.status === 404) {
      this.#setFlags({ deleted: true, online: true });
    } else if (isTooMuch(error) && this.#outbox.divide(messages)) {
      return true;
    } else if (!isTemporary(error)) {
      this.#setFlags({ error, online: true });
    } else {
      this.#outbox.wait();
      this.#setFlags({ online: !error.isAway });
      if (!this.#isClosed) this.#sendAfter(error.retryAfter ? error.retryAfter * 1000 : this.#retryMs);
      this.#retryMs = Math.min(this.#retryMs * 2, MOST_RETRY_MS);
    }
    return false;
  }

  /**
   * Another device has finished a message in another way. Nothing is lost: what this device has
   * becomes a separate message, beside the other one.
   */
  async #branchOff(sent, refusal, key) {
    let stored;
    try {
      stored = await readConversation(this.#id, 0);
    } catch (error) {
      return this.#failed(error.status === 409 ? { status: 500 } : error, sent, key);
    }
    const { unsent, renamed } = branches([...this.#outbox.messages.values()], stored.messages, () => newId());
    const isSame = !renamed.size && unsent.length === this.#outbox.messages.size;
    if (isSame) return this.#failed({ status: 400, message: refusal.message }, sent, key); // not for ever
    for (const [id, other] of renamed) {
      this.#noteName(id, other);
      if (this.#head === id) this.#head = other;
    }
    this.#outbox.replace(unsent, this.#head);
    this.#messages = [];
    this.#apply(stored);
    return true;
  }

  /** The server stores nothing: the conversation lives in this tab. */
  #live(flags = {}) {
    this.#draft = this.#fields();
    this.#outbox.stop();
    this.#setFlags({ ...flags, stored: false, online: true });
  }

  // Reading

  /** Read what has changed on the server. Never throws. */
  async refresh() {
    if (this.#id === null || this.#outbox.create || !this.#flags.stored || this.#isClosed || !this.#owner.isHere) return;
    await (this.#reading ??= this.#read().finally(() => (this.#reading = null)));
  }

  async #read() {
    const key = keyStore.value;
    try {
      let found = await readConversation(this.#id, this.#seen);
      // It was deleted, and made again.
      if (found.revision < this.#seen) found = await readConversation(this.#id, 0);
      if (keyStore.value === key) this.#take(found);
    } catch (error) {
      if (keyStore.value === key) this.#unread(error);
    }
    // The answer was one to another key.
    if (keyStore.value !== key && this.#owner.isHere && !this.#isClosed) await this.#read();
  }

  #take(found) {
    if (found.revision > this.#seen || this.#info === null) this.#apply(found);
    this.#setFlags({ loading: false, online: true, deleted: false });
  }

  #unread(error) {
    if (isOff(error)) this.#live({ loading: false });
    else if (error.status === 404) this.#setFlags({ loading: false, deleted: true, online: true });
    else if (error.isAway) this.#setFlags({ online: false });
    else if (!isTemporary(error)) this.#setFlags({ loading: false, error, online: true });
  }

  #apply({ messages, has_more, ...info }) {
    const isFirst = this.#info === null;
    this.#seen = info.revision;
    this.#info = info;
    const { messages: unsent, fields } = this.#outbox;
    const choose = (own, their) => (unsent.has(their.id) ? further(their, own) : their);
    this.#messages = withMessages(this.#messages, messages, choose);
    this.#messages = withMessages(this.#messages, [...unsent.values()], further);
    // Show what another device has added after the last message; but never another branch.
    const { head } = info;
    const isNews = isFirst || this.#head === null || isOnPath(this.#messages, this.#head, head);
    if (head && !("head" in fields) && isNews) this.#head = head;
    this.#publish();
  }

  // Following

  #watch() {
    const end = watch({
      look: (change) => this.#look(change),
      back: () => this.#goOn(),
      key: () => this.#meetKey(),
      reach: (online) => this.#setFlags({ online }),
    });
    const endSelf = self.subscribe(() => this.#meetKey());
    return () => [end, endSelf].forEach((one) => one());
  }

  #goOn() {
    if (isRefusal(this.#flags.error)) this.#setFlags({ error: null });
    this.refresh().then(() => this.#sendAfter(0));
  }

  /** Another key is used, or the server has told whose it is. */
  #meetKey() {
    if (this.#id === null) return;
    const isNothing = this.#info === null && !this.#messages.length && this.#outbox.isEmpty;
    if (!this.#owner.isHere && !isNothing) {
      this.#isPaused = true;
      this.#flags.loading = false;
      return this.#publish();
    }
    const isBack = this.#isPaused;
    this.#isPaused = false;
    if (!this.#owner.isHere) this.#giveTo(new Owner());
    else if (!this.#owner.take() && !isBack) return;
    this.#outbox.move();
    this.#publish();
    this.#goOn();
  }

  /** Nothing of the earlier user is here; perhaps the conversation is one of another user. */
  #giveTo(owner) {
    this.#owner = owner;
    this.#outbox = new Outbox();
    Object.assign(this.#flags, { stored: true, deleted: false, error: null });
    this.#recall();
  }

  #look({ id, by, isDeleted }) {
    if (by === this || (id !== null && id !== this.#id) || this.#flags.deleted) return;
    if (isDeleted) this.#setFlags({ deleted: true });
    else this.refresh();
  }

  #setFlags(flags) {
    if (Object.entries(flags).every(([name, value]) => this.#flags[name] === value)) return;
    Object.assign(this.#flags, flags);
    this.#publish();
  }

  /** The fields in force: those that are unsent, or else those of the server. */
  #fields() {
    return { ...this.#draft, ...this.#info, ...this.#outbox.fields };
  }

  #publish() {
    const isKnown = this.#info !== null || this.#outbox.create || !this.#flags.stored;
    const isHere = this.#id === null || this.#owner.isHere;
    this.state.set({
      id: this.#id,
      conversation: this.#id !== null && isKnown
        ? { ...newInfo(this.#id), ...this.#fields(), head: this.#head, messages_count: this.#messages.length }
        : null,
      messages: this.#messages,
      head: this.#head,
      path: pathTo(this.#messages, this.#head),
      ...this.#flags,
      stored: this.#flags.stored && isHere,
      unsaved: this.#flags.stored && !this.#outbox.isEmpty,
    });
  }
}
