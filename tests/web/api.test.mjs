// Requests and the key: asked for once, in one tab, and not again after a refusal.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

const listeners = new Map();
const items = new Map();
globalThis.addEventListener = (name, listen) => listeners.set(name, listen);
globalThis.localStorage = {
  getItem: (name) => items.get(name) ?? null,
  setItem: (name, text) => items.set(name, text),
  removeItem: (name) => items.delete(name),
};
const page = "../../offgrid/web";
const { api } = await import(`${page}/lib/api.js`);
const { connection } = await import(`${page}/lib/connection.js`);
const { declined, isKept, keyQuestion, keyStore, useKey } = await import(`${page}/lib/key.js`);
const { learnSelf, self } = await import(`${page}/lib/self.js`);

const GOOD = "sk-offgrid-good";
let asked; // the headers of the requests
/** Answers a request; tests may replace it. */
let answer;

beforeEach(() => {
  asked = [];
  answer = ({ Authorization: sent }) =>
    new Response(JSON.stringify(sent === `Bearer ${GOOD}` ? { name: "anna", scopes: [] } : { error: { message: "No key." } }), {
      status: sent === `Bearer ${GOOD}` ? 200 : 401,
    });
  globalThis.fetch = async (url, { headers }) => {
    new Headers(headers); // throws as a browser does
    asked.push(headers.Authorization ?? null);
    return answer(headers, String(url));
  };
});

afterEach(async () => {
  keyQuestion.value?.answer(null);
  useKey(null);
  await settle();
  keyQuestion.value?.answer(null);
  await settle();
  declined.set(false);
  connection.set({ online: true, times: 0 });
});

async function settle() {
  for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

test("after a refusal only what the user does asks for a key again", async () => {
  const first = api.get("v1/models");
  await settle();
  keyQuestion.value.answer(null);
  await assert.rejects(first, { status: 401 });
  assert.equal(declined.value, true);
  await assert.rejects(api.get("v1/models"), { status: 401 });
  assert.equal(keyQuestion.value, null);
  const sent = api.post("v1/history");
  await settle();
  keyQuestion.value.answer(GOOD);
  assert.equal((await sent).name, "anna");
  assert.equal(declined.value, false);
});

test("a key that another tab was given is not asked for here", async () => {
  const waiting = api.get("v1/models");
  await settle();
  assert.ok(keyQuestion.value);
  items.set("offgrid.key", JSON.stringify(GOOD));
  listeners.get("storage")({ key: "offgrid.key" });
  assert.equal((await waiting).name, "anna");
  assert.equal(keyQuestion.value, null);
  assert.equal(declined.value, false);
});

test("a key with letters that no header can have is a wrong key, and the server is not away", async () => {
  useKey("مفتاح…");
  await assert.rejects(api.get("v1/models", { quiet: true }), { status: 401 });
  assert.equal(connection.value.online, true);
  assert.ok(asked.includes("Bearer ??????"));
});

test("a key is kept only if the user wants it", async () => {
  useKey(GOOD, false);
  assert.equal(isKept(), false);
  useKey(GOOD);
  assert.equal(isKept(), true);
});

test("a late answer about an earlier key does not replace that about the present one", async () => {
  let late;
  answer = ({ Authorization: sent }) =>
    (sent === "Bearer old" ? new Promise((resolve) => { late = resolve; }) : new Response('{"name":"new","scopes":[]}'));
  useKey("old"); // the page learns about each key that is used
  await settle();
  useKey("new");
  await settle();
  late(new Response('{"name":"old","scopes":["admin"]}'));
  await settle();
  assert.equal(self.value.name, "new");
  await learnSelf();
});
