// The lab: settings become requests, answers branch, and settings become commands and programs.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { append, goBack, parting, takeBranch, textOf, visible } from "../../offgrid/web/pages/lab/answer.js";
import { curl, literal, python, realRequest } from "../../offgrid/web/pages/lab/export.js";
import { FIELDS, MIN_KEEP, STEPS, changed, fieldOf, requestOf, turnedOff, valueOf } from "../../offgrid/web/pages/lab/settings.js";

const STATE = { model: "m", mode: "text", text: "a", system: "", settings: {}, seed: null, answer: [], branches: [], top: 20 };
const controls = new Map([...STEPS.flatMap((step) => step.controls), MIN_KEEP].map((one) => [one.field, one]));
const token = (id, text = String.fromCharCode(97 + id)) => ({ id, piece: text, bytes: [...new TextEncoder().encode(text)] });
const ids = (tokens) => tokens.map(({ id }) => id);

test("what has its usual value is not sent", () => {
  assert.deepEqual(requestOf(STATE), { model: "m", prompt: "a", top: 20 });
  let settings = changed({}, controls.get("top_k"), 5);
  assert.deepEqual(requestOf({ ...STATE, settings }), { model: "m", prompt: "a", top_k: 5, top: 20 });
  settings = changed(settings, controls.get("top_k"), 0);
  assert.deepEqual(settings, {});
  settings = changed(settings, controls.get("dry_sequence_breakers"), ["\n", ":", '"', "*"]);
  assert.deepEqual(settings, {});
  assert.equal(valueOf({}, controls.get("temperature")), 0.7);
});

test("a conversation, a seed and an answer so far", () => {
  const request = requestOf({ ...STATE, mode: "chat", system: "Be brief.", seed: 7, answer: [token(1), token(2)] });
  assert.deepEqual(request.messages, [{ role: "system", content: "Be brief." }, { role: "user", content: "a" }]);
  assert.equal(request.seed, 7);
  assert.deepEqual(request.continuation, [1, 2]);
  assert.equal(request.prompt, undefined);
  assert.deepEqual(requestOf({ ...STATE, mode: "chat" }).messages, [{ role: "user", content: "a" }]);
});

test("biases: of ids and texts, bans, and rows that are still empty", () => {
  const logit_bias = [
    { token: " yes", value: 5, banned: false }, { token: "12", value: 1, banned: true }, { token: "", value: 3, banned: false },
  ];
  assert.deepEqual(requestOf({ ...STATE, settings: { logit_bias } }).logit_bias, { " yes": 5, 12: false });
  const empty = { logit_bias: [{ token: "", value: 3, banned: false }] };
  assert.equal(requestOf({ ...STATE, settings: empty }).logit_bias, undefined);
});

test("everything off is what changes nothing", () => {
  assert.deepEqual(turnedOff(), { temperature: 1, top_p: 1 });
  assert.equal(new Set(FIELDS).size, FIELDS.length);
});

test("an error belongs to a control", () => {
  assert.equal(fieldOf("logit_bias.5"), "logit_bias");
  assert.equal(fieldOf("messages[0].content"), "messages");
  assert.equal(fieldOf(null), null);
});

test("going back keeps what was left as a branch", () => {
  let state = [0, 1, 2].reduce((old, id) => append(old, token(id)), STATE);
  state = goBack(state, 1);
  assert.deepEqual(ids(state.answer), [0]);
  assert.deepEqual(state.branches.map(ids), [[0, 1, 2]]);
  const other = append(state, token(5));
  assert.deepEqual(other.branches.map(ids), [[0, 1, 2]]);
  assert.equal(parting(other.answer, other.branches[0]), 1);
  const taken = takeBranch(other, 0);
  assert.deepEqual(ids(taken.answer), [0, 1, 2]);
  assert.deepEqual(taken.branches.map(ids), [[0, 5]]);
});

test("the same way again is no branch", () => {
  let state = goBack([0, 1].reduce((old, id) => append(old, token(id)), STATE), 0);
  state = append(append(state, token(0)), token(1));
  assert.deepEqual(state.branches, []);
  state = goBack(append(state, token(2)), 1);
  state = goBack(state, 0);
  assert.deepEqual(state.branches.map(ids), [[0], [0, 1, 2]]);
  assert.deepEqual(takeBranch(state, 1).answer.map(({ id }) => id), [0, 1, 2]);
});

test("branches do not grow without end", () => {
  let state = STATE;
  for (let id = 0; id < 40; id++) state = goBack(append(append(state, token(id)), token(1)), 0);
  assert.equal(state.branches.length, 12);
});

test("pieces: white space is visible, bytes without a character too, and nothing turns the text round", () => {
  assert.equal(visible(token(1, " the\n")), "␣the↵");
  assert.equal(visible({ piece: "\ufffd", bytes: [0xf0, 0x9f] }), "\\xf0\\x9f");
  assert.equal(visible(token(1, "a\u202eb\u200b")), "a\\u202eb\\u200b");
  assert.equal(visible({ piece: "", bytes: [] }), "∅");
  assert.equal(textOf([{ bytes: [0xf0, 0x9f] }, { bytes: [0x98, 0x80] }]), "😀");
});

test("a command for the shell: quotes in the text stay text", () => {
  const state = { ...STATE, text: "it's $HOME `x` \\ \"q\"\nü", settings: { top_k: 5 }, seed: 3 };
  const command = curl(state, "http://h:1/", true);
  assert.match(command, /Bearer \$OFFGRID_API_KEY"/);
  const shell = `curl() { while [ $# -gt 1 ]; do shift; done; printf %s "$1"; }\n${command}`;
  const { stdout, status } = spawnSync("sh", ["-c", shell], { encoding: "utf8" });
  assert.equal(status, 0);
  assert.deepEqual(JSON.parse(stdout), realRequest(state).body);
  assert.ok(!curl(state, "http://h:1/", false).includes("Authorization"));
});

test("a program: fields that the client does not know go into extra_body", () => {
  const state = { ...STATE, mode: "chat", text: 'say "hé😀"\\', settings: { top_k: 5, top_p: 0.5, ignore_eos: true } };
  const program = python(state, "http://h:1/", false);
  assert.match(program, /client\.chat\.completions\.create\(/);
  assert.match(program, /^ {4}top_p=0\.5,$/m);
  assert.match(program, /^ {4}extra_body=\{"top_k": 5, "ignore_eos": True\},$/m);
  assert.equal(literal([null, false, { a: "b" }]), '[None, False, {"a": "b"}]');
  assert.match(python(STATE, "http://h:1/", true), /os\.environ\["OFFGRID_API_KEY"\]/);
});
