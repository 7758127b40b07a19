// The tree of messages, and how a conversation is kept in step with the server. The server is a
// small stand-in with the rules of /v1/history; the real one is met in the browser tests.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

const listeners = new Map();
globalThis.addEventListener = (name, listen) => listeners.set(name, listen); // modules listen to the window
globalThis.localStorage = new (class {
  #items = new Map();
  get length() { return this.#items.size; }
  key(place) { return [...this.#items.keys()][place]; }
  getItem(name) { return this.#items.get(name) ?? null; }
  setItem(name, text) { this.#items.set(name, text); }
  removeItem(name) { this.#items.delete(name); }
})();
const page = "../../offgrid/web";
const { connection } = await import(`${page}/lib/connection.js`);
const { keyQuestion, keyStore } = await import(`${page}/lib/key.js`);
const { remembered } = await import(`${page}/lib/local.js`);
const { MAX_TOKENS } = await import(`${page}/pages/chat/answer.js`);
const { oneLine } = await import(`${page}/pages/chat/history/server.js`);
const { Entries } = await import(`${page}/pages/chat/history/entries.js`);
const { historyEnabled, newId, openConversation } = await import(`${page}/pages/chat/history/sync.js`);
const { fileName, parcels } = await import(`${page}/pages/chat/history/transfer.js`);
const { fits, portion, sizeOf } = await import(`${page}/pages/chat/history/portion.js`);
const { recallDraft, rememberDraft } = await import(`${page}/pages/chat/settings.js`);
const { branches, further, isOnPath, leafOf, pathTo, withMessages } = await import(
  `${page}/pages/chat/history/tree.js`
);

const said = (id, parent = null, more = {}) => ({ id, parent, role: "user", content: id, status: "done", ...more });
const ids = (messages) => messages.map(({ id }) => id);

// --- the tree -------------------------------------------------------------------------------------

const TREE = [said("a"), said("b", "a"), said("c", "a"), said("d", "b"), said("e", "c"), said("f", "b"), said("z")];

test("a path leads from the first message to the head", () => {
  assert.deepEqual(ids(pathTo(TREE, "f")), ["a", "b", "f"]);
  assert.deepEqual(ids(pathTo(TREE, "z")), ["z"]);
  assert.deepEqual(pathTo(TREE, null), []);
  assert.deepEqual(pathTo(TREE, "unknown"), []);
});

test("branches", () => {
  assert.equal(leafOf(TREE, "a"), "e");
  assert.equal(leafOf(TREE, "b"), "f");
  assert.equal(leafOf(TREE, "d"), "d");
  assert.equal(leafOf(TREE, "unknown"), null);
  assert.equal(isOnPath(TREE, "b", "f"), true);
  assert.equal(isOnPath(TREE, "c", "f"), false);
});

test("of two versions of a message the further one is shown", () => {
  const short = said("a", null, { content: "x", status: "running" });
  const long = { ...short, content: "xyz" };
  const done = { ...short, content: "x", status: "done" };
  assert.equal(further(undefined, short), short);
  assert.equal(further(short, long), long);
  assert.equal(further(long, short), long);
  assert.equal(further(long, done), done);
  assert.equal(further(done, long), done);
});

test("a list without news stays the same list", () => {
  assert.equal(withMessages(TREE, [TREE[2], TREE[0]]), TREE);
  const more = withMessages(TREE, [said("g", "f"), { ...TREE[0], content: "new" }]);
  assert.deepEqual(ids(more), [...ids(TREE), "g"]);
  assert.equal(more[0].content, "new");
});

test("a request has a portion of the messages", () => {
  assert.deepEqual(ids(portion(TREE, { messages: 3 })), ["a", "b", "c"]);
  assert.deepEqual(ids(portion(TREE, { bytes: 1 })), ["a"]);
  assert.deepEqual(portion([], { bytes: 1 }), []);
});

/** An answer with as many tokens as are kept, as `Answer.about` has them. */
function coloured(id, parent = null) {
  const others = Array.from({ length: 5 }, (_, n) => [`w${n}`, -1.5]);
  return said(id, parent, { role: "assistant", data: { tokens: Array.from({ length: MAX_TOKENS }, () => ["w", -0.5, others]) } });
}

test("a request has no more values than the server reads", () => {
  const many = [coloured("a"), coloured("b", "a"), said("c", "b")];
  assert.deepEqual(ids(portion(many)), ["a"]);
  assert.ok(fits(sizeOf(many[0])));
  assert.deepEqual(sizeOf({ a: ["b", {}, 1, null], "\u20ac": "c" }), { bytes: 31, messages: 1, texts: 4, groups: 3 });
  const found = parcels({ conversations: [{ id: "x", messages: many, head: "c" }, { id: "y", messages: [coloured("a")] }] });
  assert.deepEqual(
    found.map(({ body }) => body.conversations.map(({ id, messages }) => [id, ids(messages)])),
    [[["x", ["a"]]], [["x", ["b", "c"]]], [["y", ["a"]]]],
  );
});

test("messages that another device finished differently become branches", () => {
  let count = 0;
  const next = () => `new${(count += 1)}`;
  const stored = [said("a"), said("b", "a", { data: {} }), said("c", "a", { status: "running" }), said("s", "a", { data: { x: 1, y: 2 } })];
  const unsent = [
    said("b", "a", { content: "mine", data: {} }), said("c", "a", { content: "whole" }), said("d", "b"),
    said("s", "a", { data: { y: 2, x: 1 } }), said("e", "d"),
  ];
  const found = branches(unsent, stored, next);
  assert.deepEqual(found.unsent.map(({ id, parent, content }) => [id, parent, content]), [
    ["new1", "a", "mine"], ["c", "a", "whole"], ["d", "new1", "d"], ["e", "d", "e"],
  ]);
  assert.deepEqual([...found.renamed], [["b", "new1"]]);
});

test("titles are one line", () => {
  assert.equal(oneLine(" a\n\tb\u0007c  "), "a b c");
  assert.equal(Array.from(oneLine("😀".repeat(600))).length, 500);
});

test("ids are new and may be ids", () => {
  assert.match(newId(), /^msg_[0-9a-f]{24}$/);
  assert.notEqual(newId("chat"), newId("chat"));
});

// --- files ----------------------------------------------------------------------------------------

test("a file within the limits is one request, which is all or nothing", () => {
  const file = { object: "history.export", version: 1, conversations: [{ id: "x", messages: TREE, head: "a" }, { id: "y" }] };
  assert.deepEqual(parcels(file), [{ body: file, heads: [] }]);
  for (const wrong of [{}, { conversations: 7 }]) assert.deepEqual(parcels(wrong), [{ body: wrong, heads: [] }]);
  const odd = { conversations: [null, { messages: 7 }] };
  assert.deepEqual(parcels(odd), [{ body: odd, heads: [] }]);
});

test("a larger file is divided, and so is a long conversation", () => {
  const messages = Array.from({ length: 2300 }, (_, n) => said(`m${n}`));
  const file = { version: 1, conversations: [{ id: "a" }, { id: "x", title: "T", head: "m3", messages }, { id: "b" }] };
  const found = parcels(file);
  assert.deepEqual(
    found.map(({ body }) => body.conversations.map(({ id, messages: part = [] }) => [id, part.length])),
    [[["a", 0], ["x", 1000]], [["x", 1000]], [["x", 300], ["b", 0]]],
  );
  assert.ok(found.every(({ body }) => body.version === 1));
  assert.deepEqual(found.map(({ heads }) => heads), [[], [], [["x", "m3"]]]);
  assert.ok(found.every(({ body }) => body.conversations.every((one) => !("head" in one))));
});

test("a title becomes the name of a file", () => {
  assert.equal(fileName(' Ütters: "1/2"\u202e '), "Ütters-1-2");
  assert.equal(fileName("???"), "");
});

// --- in step with the server ----------------------------------------------------------------------

/** A server with the rules of /v1/history. */
class Server {
  conversations = new Map();
  requests = [];
  /** The ids of keys by their secrets. */
  ids = {};
  /** An answer for every request: null for the rules, or {status, code, headers}; "away" for none. */
  trouble = null;

  async answer(method, url, body, signal, key) {
    if (this.trouble === "away") throw new TypeError("fetch failed");
    const [, path, query = ""] = /\/v1\/history\/?([^?]*)\??(.*)$/.exec(url) ?? [];
    if (url.endsWith("/v1/keys/self")) return json(200, { needed: key !== null, id: this.ids[key] ?? null, scopes: [] });
    if (path === undefined) return json(200, {});
    this.requests.push({ method, path, body, signal, key });
    if (this.trouble) return json(this.trouble.status, { error: { message: "No.", ...this.trouble } }, this.trouble.headers);
    if (path === "") return method === "GET" ? json(200, { data: [], has_more: false }) : this.create(body);
    const [id, tail] = path.split("/");
    const one = this.conversations.get(id);
    if (!one) return json(404, { error: { message: "Not found.", code: "not_found" } });
    if (method === "GET") return this.read(one, Number(new URLSearchParams(query).get("since") ?? 0));
    if (tail === "messages") return this.add(one, body.messages, body.head);
    const before = JSON.stringify(one);
    Object.assign(one, body);
    if (JSON.stringify(one) !== before) one.revision += 1;
    return json(200, describe(one));
  }

  create({ id, messages = [], head = null, title = "", pinned = false, settings = {} }) {
    const known = this.conversations.get(id);
    const one = known ?? { id, title, pinned, settings, head: null, created_at: 1, updated_at: 1, revision: 0, messages: [] };
    this.conversations.set(id, one);
    return this.add(one, messages, head, known === undefined);
  }

  add(one, messages, head, isNew = false) {
    let changed = isNew;
    const next = one.messages.map((message) => ({ ...message }));
    for (const message of messages) {
      const at = next.findIndex(({ id }) => id === message.id);
      if (message.parent !== null && !next.some(({ id }) => id === message.parent)) {
        return json(400, { error: { message: "unknown parent", code: "invalid_value" } });
      }
      const stored = { created_at: 1, ...message, revision: one.revision + 1 };
      if (at < 0) next.push(stored);
      else if (same(next[at], message)) continue;
      else if (next[at].status !== "running" && message.status === "running") continue;
      else if (next[at].status !== "running") return json(409, { error: { message: "finished", code: "message_conflict" } });
      else next[at] = stored;
      changed = true;
    }
    const last = messages.findLast(({ id }) => !one.messages.some((old) => old.id === id));
    const wanted = head ?? last?.id ?? one.head;
    if (changed || wanted !== one.head) one.revision += 1;
    Object.assign(one, { messages: next, head: wanted });
    return json(200, describe(one));
  }

  read(one, since) {
    const messages = one.messages.filter(({ revision }) => revision > since);
    return json(200, { ...describe(one), messages, has_more: false });
  }
}

function same({ revision, created_at, ...a }, { created_at: _, ...b }) {
  return JSON.stringify(a) === JSON.stringify(b);
}

function describe({ messages, ...one }) {
  return { ...one, object: "history.conversation", messages_count: messages.length, preview: "" };
}

function json(status, value, headers = {}) {
  return new Response(JSON.stringify(value), { status, headers });
}

let server;
let opened;

beforeEach(() => {
  server = new Server();
  opened = [];
  mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"] });
  globalThis.fetch = (url, { method = "GET", body, signal, headers } = {}) =>
    server.answer(method, String(url), body && JSON.parse(body), signal, headers?.Authorization?.slice("Bearer ".length) ?? null);
});

afterEach(async () => {
  server.trouble = null;
  for (const one of opened) one.close();
  await settle();
  mock.timers.reset();
  connection.set({ online: true, times: 0 });
  assert.deepEqual(remembered("history."), [], "everything was sent, or dropped");
});

function open(id) {
  opened.push(openConversation(id));
  return opened.at(-1);
}

/** Let everything run that needs no time. */
async function settle() {
  for (let turn = 0; turn < 50; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

async function after(ms) {
  await settle();
  mock.timers.tick(ms);
  await settle();
}

const only = () => [...server.conversations.values()][0];

test("a new conversation is made with its first message", async () => {
  const one = open(null);
  one.rename("Otters\n swim");
  one.setSettings({ model: "m" });
  await after(5000);
  assert.equal(server.requests.length, 0);
  assert.equal(one.state.value.conversation, null);
  const message = one.append({ role: "user", content: "Hello!" });
  assert.deepEqual(ids(one.state.value.path), [message.id]);
  assert.equal(one.state.value.unsaved, true);
  await after(0);
  assert.deepEqual([only().title, only().settings, only().head], ["Otters swim", { model: "m" }, message.id]);
  assert.equal(one.state.value.unsaved, false);
  assert.equal(one.state.value.id, only().id);
  assert.equal(one.state.value.conversation.title, "Otters swim");
  assert.deepEqual(server.requests.map(({ method, path }) => [method, path]), [["POST", ""]]);
});

test("an answer that grows is sent once per second, and at once when it is finished", async () => {
  const one = open(null);
  one.append({ role: "user", content: "Hello!" });
  const { id } = one.append({ role: "assistant", content: "", status: "running" });
  await after(0);
  server.requests = [];
  for (let n = 1; n <= 30; n += 1) {
    one.update(id, { content: "x".repeat(n) });
    await after(100);
  }
  const sent = server.requests.filter(({ method }) => method === "POST").length;
  assert.ok(sent >= 2 && sent <= 4, `${sent} requests in 3 seconds`);
  one.update(id, { content: "x".repeat(31), status: "done", data: { usage: 1 } });
  await after(0);
  assert.deepEqual([only().messages[1].content.length, only().messages[1].status], [31, "done"]);
  one.update(id, { content: "too late" });
  await after(2000);
  assert.equal(only().messages[1].content.length, 31);
});

test("the list is read at once after a change, but not with each second of an answer", async () => {
  const entries = new Entries();
  const end = entries.open();
  await after(0);
  const looks = () => server.requests.filter(({ method, path }) => method === "GET" && path === "").length;
  assert.equal(looks(), 1);
  const one = open(null);
  one.append({ role: "user", content: "Hello!" });
  const { id } = one.append({ role: "assistant", content: "", status: "running" });
  await after(0);
  await after(0);
  assert.equal(looks(), 2);
  for (let n = 1; n <= 12; n += 1) {
    one.update(id, { content: "x".repeat(n) });
    await after(1000);
  }
  assert.ok(looks() >= 4 && looks() <= 6, `${looks()} looks in 12 seconds`);
  end();
});

test("a search ends that of the letters before", async () => {
  const entries = new Entries();
  const end = entries.open();
  await after(0);
  entries.search("o");
  await after(250);
  entries.search("ot");
  await after(250);
  const [first, second, third] = server.requests.map(({ signal }) => signal);
  assert.deepEqual([first.aborted, second.aborted, third.aborted], [true, true, false]);
  end();
  assert.ok(third.aborted);
  assert.equal(entries.state.value.error, null);
});

test("two devices see each other's messages, and both answers stay", async () => {
  const first = open(null);
  first.append({ id: "q", role: "user", content: "Hello!" });
  await after(0);
  const second = open(only().id);
  await after(0);
  assert.deepEqual(ids(second.state.value.path), ["q"]);
  first.append({ id: "one", role: "assistant", content: "1" });
  second.append({ id: "two", role: "assistant", content: "2" });
  await after(0);
  await after(5000);
  for (const device of [first, second]) {
    assert.deepEqual(ids(device.state.value.messages).sort(), ["one", "q", "two"]);
  }
  assert.equal(first.state.value.head, "one");
  assert.equal(second.state.value.head, "two");
  first.setHead("two");
  await after(0);
  second.append({ id: "next", role: "user", content: "3" });
  await after(0);
  await after(5000);
  assert.deepEqual(ids(first.state.value.path), ["q", "two", "next"]);
  assert.equal(only().head, "next");
});

test("fields of the last writer win, and a field that is not touched is kept", async () => {
  const first = open(null);
  first.append({ role: "user", content: "Hello!" });
  await after(0);
  const second = open(only().id);
  await after(0);
  first.rename("By the first");
  second.setPinned(true);
  await after(0);
  await after(5000);
  for (const { state } of [first, second]) {
    assert.equal(state.value.conversation.title, "By the first");
    assert.equal(state.value.conversation.pinned, true);
  }
});

test("what is said while the server is away is sent when it is back", async () => {
  const one = open(null);
  server.trouble = "away";
  one.append({ id: "a", role: "user", content: "Hello!" });
  await after(0);
  assert.deepEqual([one.state.value.online, one.state.value.unsaved], [false, true]);
  one.append({ id: "b", role: "user", content: "Are you there?" });
  await after(3000);
  assert.equal(server.conversations.size, 0);
  server.trouble = null;
  await after(60_000);
  assert.deepEqual(ids(only().messages), ["a", "b"]);
  assert.deepEqual([one.state.value.online, one.state.value.unsaved], [true, false]);
});

test("a reload loses nothing that was not sent", async () => {
  server.trouble = "away";
  const one = open(null);
  one.append({ id: "a", role: "user", content: "Hello!" });
  one.rename("T");
  const { id } = one.state.value;
  one.close();
  await after(60_000);
  assert.equal(server.conversations.size, 0);
  server.trouble = null;
  const again = open(id);
  assert.deepEqual(ids(again.state.value.path), ["a"]);
  assert.equal(again.state.value.conversation.title, "T");
  await after(5000);
  assert.deepEqual([ids(only().messages), only().title], [["a"], "T"]);
});

test("the page is not left without a question while something exists only in it", async () => {
  const leave = () => {
    const event = new Event("beforeunload", { cancelable: true });
    listeners.get("beforeunload")(event);
    return event.defaultPrevented;
  };
  server.trouble = "away";
  const { setItem } = localStorage;
  localStorage.setItem = () => { throw new Error("The quota is exceeded."); };
  const one = open(null);
  one.append({ id: "a", role: "user", content: "Hello!" });
  await after(0);
  assert.equal(leave(), true);
  server.trouble = null;
  await after(60_000);
  assert.equal(leave(), false, "the server has it");
  localStorage.setItem = setItem;
});

test("another key gets nothing of what was not sent", async () => {
  server.trouble = "away";
  const one = open(null);
  one.append({ id: "a", role: "user", content: "My secret" });
  const { id } = one.state.value;
  one.close();
  await after(60_000);
  server.trouble = null;
  keyStore.set("sk-offgrid-another");
  const theirs = open(id);
  await after(60_000);
  assert.deepEqual([theirs.state.value.path, server.conversations.size], [[], 0]);
  keyStore.set(null);
  open(id);
  await after(0);
  assert.deepEqual(ids(only().messages), ["a"]);
});

test("another key gets no draft", () => {
  keyStore.set("sk-offgrid-one");
  rememberDraft(null, { text: "My secret", images: [] });
  keyStore.set("sk-offgrid-another");
  assert.equal(recallDraft(null).text, "");
  keyStore.set("sk-offgrid-one");
  assert.equal(recallDraft(null).text, "My secret");
  rememberDraft(null, { text: "", images: [] });
  keyStore.set(null);
});

test("an answer that was lost is asked for again, and nothing is stored twice", async () => {
  const one = open(null);
  const { answer } = server;
  server.answer = async function lost(...given) {
    await answer.apply(this, given);
    throw new TypeError("fetch failed");
  };
  one.append({ id: "a", role: "user", content: "Hello!" });
  await after(0);
  delete server.answer;
  await after(60_000);
  assert.equal(server.conversations.size, 1);
  assert.deepEqual(ids(only().messages), ["a"]);
  assert.equal(one.state.value.unsaved, false);
});

test("a server that is busy is asked again after the time that it names", async () => {
  server.trouble = { status: 503, code: "store_busy", headers: { "Retry-After": "7" } };
  const one = open(null);
  one.append({ role: "user", content: "Hello!" });
  await after(0);
  server.trouble = null;
  await after(6000);
  assert.equal(server.conversations.size, 0);
  await after(1500);
  assert.equal(server.conversations.size, 1);
});

test("a conversation that was deleted elsewhere can be saved again", async () => {
  const one = open(null);
  one.append({ id: "a", role: "user", content: "Hello!" });
  one.rename("T");
  await after(0);
  server.conversations.clear();
  one.append({ id: "b", role: "user", content: "Again" });
  await after(0);
  assert.equal(one.state.value.deleted, true);
  assert.deepEqual(ids(one.state.value.path), ["a", "b"]);
  await after(60_000);
  assert.equal(server.conversations.size, 0);
  one.saveAgain();
  await after(0);
  assert.deepEqual([ids(only().messages), only().title, only().head], [["a", "b"], "T", "b"]);
  assert.deepEqual([one.state.value.deleted, one.state.value.unsaved], [false, false]);
});

test("of messages that the server does not take, those before the one at fault are stored", async () => {
  const one = open(null);
  server.trouble = "away";
  for (let n = 0; n < 20; n += 1) one.append({ id: `m${n}`, role: "user", content: n === 13 ? "wrong" : "right" });
  await after(0);
  server.trouble = null;
  const { add } = server;
  server.add = function strict(conversation, messages, ...rest) {
    const wrong = messages.some(({ content }) => content === "wrong");
    return wrong ? json(400, { error: { message: "It is wrong.", code: "too_many_values" } }) : add.call(this, conversation, messages, ...rest);
  };
  await after(60_000);
  assert.equal(only().messages.length, 13);
  assert.equal(one.state.value.error.code, "too_many_values");
  assert.equal(one.state.value.unsaved, true);
  delete server.add;
  one.append({ id: "last", role: "user", content: "right" });
  await after(0);
  assert.equal(only().messages.length, 21);
});

test("what was not sent of a deleted conversation is dropped when it is closed", async () => {
  const one = open(null);
  one.append({ id: "a", role: "user", content: "Hello!" });
  await after(0);
  server.conversations.clear();
  one.append({ id: "b", role: "user", content: "Again" });
  await after(0);
  assert.equal(one.state.value.deleted, true);
  assert.equal(remembered("history.").length, 1);
  one.close();
  assert.equal(remembered("history.").length, 0);
});

test("a conversation that does not exist is said to be deleted", async () => {
  const one = open("chat_none");
  assert.equal(one.state.value.loading, true);
  await after(0);
  assert.deepEqual([one.state.value.deleted, one.state.value.loading], [true, false]);
});

test("without a history it lives in this tab", async () => {
  server.trouble = { status: 404, code: "history_off" };
  assert.equal(await historyEnabled(), false);
  const one = open(null);
  one.append({ id: "a", role: "user", content: "Hello!" });
  await after(0);
  assert.deepEqual([one.state.value.stored, one.state.value.unsaved], [false, false]);
  one.append({ id: "b", role: "user", content: "Still here" });
  await after(60_000);
  assert.deepEqual(ids(one.state.value.path), ["a", "b"]);
  assert.equal(server.requests.filter(({ method }) => method === "POST").length, 1);
  server.trouble = null;
  assert.equal(await historyEnabled(), true);
});

for (const [what, trouble] of [
  ["a key without the scope", { status: 403, code: "missing_scope" }], ["a server without a history", { status: 404, code: "history_off" }],
]) {
  test(`${what} takes nothing away of what waited for the server`, async () => {
    const one = open(null);
    one.append({ id: "a", role: "user", content: "Hello!" });
    await after(0);
    server.trouble = "away";
    one.append({ id: "b", role: "user", content: "Are you there?" });
    await after(0);
    server.trouble = trouble;
    await after(60_000);
    assert.equal(one.state.value.stored, false);
    one.append({ id: "c", role: "user", content: "Only in this tab" });
    assert.deepEqual(remembered("history.").length, 1);
    one.close();
    server.trouble = null;
    const again = open(only().id);
    await after(0);
    assert.deepEqual([ids(again.state.value.path), ids(only().messages)], [["a", "b"], ["a", "b"]]);
  });
}

test("what is written while the server stores nothing leaves nothing in the browser", async () => {
  server.trouble = { status: 404, code: "history_off" };
  const one = open(null);
  one.append({ id: "a", role: "user", content: "Hello!" });
  await after(0);
  one.append({ id: "b", role: "user", content: "Still here" });
  await after(0);
  assert.deepEqual(remembered("history."), []);
});

test("a full history is told, and the next change tries again", async () => {
  const one = open(null);
  server.trouble = { status: 507, code: "history_full" };
  one.append({ id: "a", role: "user", content: "Hello!" });
  await after(0);
  assert.equal(one.state.value.error.code, "history_full");
  assert.equal(one.state.value.unsaved, true);
  server.trouble = null;
  await after(60_000);
  assert.equal(server.conversations.size, 0);
  one.append({ id: "b", role: "user", content: "Again" });
  await after(0);
  assert.deepEqual([ids(only().messages), one.state.value.error], [["a", "b"], null]);
});

test("what a refused key could not store is stored with its next secret", async () => {
  Object.assign(server.ids, { "sk-offgrid-old": "k1", "sk-offgrid-rotated": "k1" });
  keyStore.set("sk-offgrid-old");
  await after(0);
  const one = open(null);
  one.append({ id: "a", role: "user", content: "Hello!" });
  await after(0);
  server.trouble = { status: 403, code: "model_not_allowed" };
  one.append({ id: "b", role: "user", content: "Still me" });
  await after(60_000);
  assert.deepEqual([one.state.value.error.status, ids(only().messages)], [403, ["a"]]);
  server.trouble = null;
  keyStore.set("sk-offgrid-rotated");
  await after(0);
  assert.deepEqual([one.state.value.error, ids(only().messages)], [null, ["a", "b"]]);
  server.trouble = "away";
  one.append({ id: "c", role: "user", content: "Not sent yet" });
  await after(0);
  one.close();
  server.trouble = null;
  assert.deepEqual(ids(open(only().id).state.value.path).at(-1), "c", "also after a reload");
  await after(60_000);
  keyStore.set(null);
});

for (const [what, begin, known] of [
  ["a new conversation", null, { "sk-a": "a", "sk-b": "b" }],
  ["a conversation", "Hello!", { "sk-a": "a", "sk-b": "b" }],
  ["a conversation whose keys cannot be told apart", null, {}],
]) {
  test(`another tab's key gets nothing of ${what} that waits for the server`, async () => {
    Object.assign(server.ids, known);
    keyStore.set("sk-a");
    await after(0);
    const one = open(null);
    if (begin) one.append({ role: "user", content: begin });
    await after(0);
    server.trouble = "away";
    one.append({ id: "a", role: "user", content: "My secret" });
    await after(0);
    keyStore.set("sk-b");
    server.trouble = null;
    server.requests = [];
    await after(60_000);
    await after(60_000);
    assert.deepEqual(server.requests, []);
    const { stored, deleted, path } = one.state.value;
    assert.deepEqual([stored, deleted, path.at(-1).content], [false, false, "My secret"]);
    keyStore.set("sk-a");
    await after(0);
    assert.deepEqual([only().messages.at(-1).content, one.state.value.stored], ["My secret", true]);
    assert.deepEqual([...new Set(server.requests.map(({ key }) => key))], ["sk-a"]);
    keyStore.set(null);
  });
}

test("a request whose key is refused is not repeated with the key of somebody else", async () => {
  Object.assign(server.ids, { "sk-a": "a", "sk-b": "b", "sk-a2": "a" });
  keyStore.set("sk-a");
  await after(0);
  const one = open(null);
  server.trouble = { status: 401, code: "revoked" };
  one.append({ id: "a", role: "user", content: "My secret" });
  await after(0);
  server.trouble = null;
  server.requests = [];
  keyQuestion.value.answer("sk-b");
  await after(60_000);
  assert.deepEqual([server.requests, one.state.value.stored], [[], false]);
  keyStore.set("sk-a2");
  await after(0);
  assert.deepEqual([ids(only().messages), one.state.value.error], [["a"], null]);
  keyStore.set(null);
});

test("who has another key sees their own conversation at its address", async () => {
  Object.assign(server.ids, { "sk-a": "a", "sk-b": "b" });
  keyStore.set("sk-a");
  await after(0);
  const one = open("chat_b");
  await after(0);
  assert.equal(one.state.value.deleted, true);
  server.create({ id: "chat_b", messages: [said("q")] });
  keyStore.set("sk-b");
  await after(0);
  assert.deepEqual([one.state.value.deleted, ids(one.state.value.path)], [false, ["q"]]);
  keyStore.set(null);
});

test("a key that is given to an open page is used for what is open", async () => {
  const one = open(null);
  server.trouble = { status: 401, code: "missing_key" };
  one.append({ id: "a", role: "user", content: "Hello!" });
  await after(0);
  server.trouble = null;
  keyQuestion.value.answer("sk-first");
  await after(0);
  assert.deepEqual([ids(only().messages), one.state.value.error], [["a"], null]);
  keyStore.set(null);
});

test("a conflict that no branch solves is told, and not asked about for ever", async () => {
  const one = open(null);
  one.append({ id: "a", role: "user", content: "Hello!" });
  await after(0);
  server.add = () => json(409, { error: { message: "another parent or role", code: "message_conflict" } });
  server.requests = [];
  one.append({ id: "b", role: "user", content: "Again" });
  await after(60_000);
  assert.equal(one.state.value.error.message, "another parent or role");
  assert.ok(server.requests.filter(({ method }) => method === "POST").length < 3);
  delete server.add;
  one.append({ id: "c", role: "user", content: "And again" });
  await after(0);
  assert.deepEqual(ids(only().messages), ["a", "b", "c"]);
});

test("an answer that another device ended stays, and so does what this one still hears", async () => {
  const first = open(null);
  first.append({ id: "q", role: "user", content: "Hello!" });
  first.append({ id: "r", role: "assistant", content: "One", status: "running" });
  await after(0);
  const second = open(only().id);
  await after(0);
  second.update("r", { status: "stopped" });
  await after(0);
  first.update("r", { content: "One two" });
  first.update("r", { content: "One two three", status: "done" });
  await after(0);
  await after(5000);
  const answers = only().messages.filter(({ role }) => role === "assistant");
  assert.deepEqual(answers.map(({ content, status }) => [content, status]), [
    ["One", "stopped"], ["One two three", "done"],
  ]);
  assert.equal(first.state.value.path.at(-1).content, "One two three");
  first.append({ id: "next", role: "user", content: "And?" });
  await after(0);
  assert.equal(only().messages.at(-1).parent, answers[1].id);
});

test("an answer that goes on after a reload stays, also if another device ends it first", async () => {
  const first = open(null);
  first.append({ id: "q", role: "user", content: "Hello!" });
  first.append({ id: "r", role: "assistant", content: "One", status: "running" });
  await after(0);
  const second = open(only().id);
  await after(0);
  second.update("r", { content: "One two", status: "running" });
  await after(1500);
  first.update("r", { content: "One, ended elsewhere", status: "done" });
  await after(0);
  await after(5000);
  second.update("r", { content: "One two three", status: "running" });
  await after(1500);
  second.update("r", { content: "One two three four", status: "done" });
  await after(5000);
  const answers = only().messages.filter(({ role }) => role === "assistant");
  assert.deepEqual(answers.map(({ content, status }) => [content, status]), [
    ["One, ended elsewhere", "done"], ["One two three four", "done"],
  ]);
  assert.equal(second.state.value.path.at(-1).content, "One two three four");
});

test("what follows an answer that became a branch twice follows it", async () => {
  const one = open(null);
  one.append({ id: "q", role: "user", content: "Hello!" });
  one.append({ id: "r", role: "assistant", content: "One", status: "running" });
  await after(0);
  /** Another device ends the answer, as it is stored now. */
  const end = (content) => server.add(only(), [{ ...only().messages.at(-1), content, status: "done" }]);
  end("Not two");
  await after(5000);
  one.update("r", { content: "One two", status: "running" });
  await after(0);
  await after(1000);
  end("Not three");
  one.update("r", { content: "One, whole", status: "done" });
  await after(0);
  await after(0);
  one.append({ id: "next", parent: "r", role: "user", content: "And?" });
  await after(0);
  assert.deepEqual(only().messages.map(({ content }) => content), ["Hello!", "Not two", "Not three", "One, whole", "And?"]);
  assert.equal(only().messages[4].parent, only().messages[3].id);
});

test("many messages are sent in portions", async () => {
  const one = open(null);
  server.trouble = "away";
  for (let n = 0; n < 1100; n += 1) one.append({ id: `m${n}`, role: "user", content: "x" });
  await after(0);
  server.trouble = null;
  server.requests = [];
  await after(60_000);
  const posts = server.requests.filter(({ method }) => method === "POST");
  assert.deepEqual(posts.map(({ body }) => body.messages.length), [1000, 100]);
  assert.equal(only().messages.length, 1100);
  assert.equal(only().head, "m1099");
});
