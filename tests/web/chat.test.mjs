// How the chat page makes requests, puts answers together, and finds branches: no DOM needed.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Answer, MAX_TOKENS, afterTokens, isDue, tokensOf } from "../../offgrid/web/pages/chat/answer.js";
import { functionOf } from "../../offgrid/web/pages/chat/calls.js";
import { alternativesOf, alternativesTo, openCalls } from "../../offgrid/web/pages/chat/branches.js";
import {
  chatRequest, contentOf, imagesOf, modelOf, parseExtra, parseTools, textOf, titleOf,
} from "../../offgrid/web/pages/chat/request.js";
import { events } from "../../offgrid/web/lib/sse.js";
import { pastedImages } from "../../offgrid/web/pages/chat/images.js";
import { stateOf as labState } from "../../offgrid/web/pages/lab/handover.js";
import { levelOf, visibleToken } from "../../offgrid/web/pages/chat/tokens.js";

const delta = (value, more = {}) => ({ choices: [{ delta: value, ...more }] });

test("an answer is put together from its chunks", () => {
  const answer = new Answer();
  answer.add({ model: "m", ...delta({ role: "assistant" }) }, 0);
  assert.equal(answer.hasBegun, false);
  answer.add({ prompt_progress: { total: 4, processed: 2, cache: 0 }, choices: [] }, 10);
  answer.add(delta({ reasoning_content: "Hm" }), 100);
  answer.add(delta({ reasoning_content: "." }), 200);
  answer.add(delta({ content: "Yes" }), 350);
  answer.add(delta({ content: "!" }, { finish_reason: "stop" }), 400);
  answer.add({ choices: [], usage: { prompt_tokens: 4, completion_tokens: 5 } }, 401);
  assert.deepEqual(answer.patch(), { content: "Yes!", reasoning: "Hm.", tool_calls: null });
  assert.deepEqual(answer.about(), {
    usage: { prompt_tokens: 4, completion_tokens: 5 }, finish_reason: "stop", reasoning_ms: 250,
  });
  assert.equal(answer.model, "m");
  assert.equal(answer.progress.processed, 2);
});

test("a long answer is saved less often than a short one", () => {
  assert.ok(isDue(1, 10_000));
  assert.ok(!isDue(1, 100_000));
  assert.ok(isDue(4, 100_000));
});

test("a stream says where its request waits", () => {
  const answer = new Answer();
  answer.addComment("ping");
  assert.equal(answer.queue, null);
  answer.addComment("queued 3 of 7, about 12 s");
  assert.deepEqual(answer.queue, { place: 3, count: 7, seconds: 12 });
  answer.addComment("queued 2 of 7");
  assert.deepEqual(answer.queue, { place: 2, count: 7, seconds: undefined });
});

test("calls are put together from their parts", () => {
  const answer = new Answer();
  const call = (index, part, id) => delta({ tool_calls: [{ index, id, function: part }] });
  answer.add(call(0, { name: "one", arguments: "" }, "a"), 0);
  const before = answer.calls;
  answer.add(call(0, { arguments: '{"x"' }), 0);
  answer.add(call(1, { name: "two", arguments: "{}" }, "b"), 0);
  answer.add(call(0, { arguments: ":1}" }), 0);
  assert.deepEqual(answer.calls, [
    { id: "a", type: "function", function: { name: "one", arguments: '{"x":1}' } },
    { id: "b", type: "function", function: { name: "two", arguments: "{}" } },
  ]);
  assert.equal(before[0].function.arguments, "", "what is shown does not change by itself");
});

test("an answer goes on where it was cut off", () => {
  const answer = new Answer({ content: "One ", reasoning: null });
  assert.equal(answer.hasBegun, false);
  answer.add(delta({ content: "two" }), 0);
  assert.equal(answer.patch().content, "One two");
});

test("characters of several tokens are whole", () => {
  const answer = new Answer();
  const [first, second] = [[0xf0, 0x9f], [0x98, 0x80]];
  const token = (bytes) => ({ token: "?", bytes, logprob: -0.5, top_logprobs: [{ token: "x", logprob: -1 }] });
  answer.add(delta({ content: "😀" }, { logprobs: { content: [token(first), token(second)] } }), 0);
  const tokens = tokensOf(JSON.parse(JSON.stringify(answer.about())));
  assert.equal(tokens.map(({ text }) => text).join(""), "😀");
  assert.deepEqual(tokens[1].others, [["x", -1]]);
  assert.deepEqual(tokensOf(null), []);
});

test("tokens of reasoning are not those of the answer", () => {
  const answer = new Answer();
  const logprobs = { content: [{ token: "a", bytes: [97], logprob: 0 }] };
  answer.add(delta({ reasoning_content: "a" }, { logprobs }), 0);
  assert.deepEqual(answer.tokens, []);
});

const user = (id, parent, content = id) => ({ id, parent, role: "user", content });
const said = (id, parent, more = {}) => ({ id, parent, role: "assistant", content: id, status: "done", ...more });

test("a request has the settings and the messages", () => {
  const path = [user("q", null), said("failed", "q", { content: "" }), said("a", "q", { reasoning: "r" }), user("p", "a")];
  const body = chatRequest(path, {
    model: "m", system: "Be brief.", sampling: { temperature: 0, seed: 1, unknown: 3 }, effort: "low",
    extra: '{"min_tokens": 2}', tools: '[{"name": "f", "parameters": {}}]',
  }, { probabilities: true });
  assert.deepEqual(body.messages, [
    { role: "system", content: "Be brief." },
    { role: "user", content: "q" },
    { role: "assistant", content: "a", reasoning_content: "r" },
    { role: "user", content: "p" },
  ]);
  assert.equal(body.temperature, 0);
  assert.equal(body.unknown, undefined);
  assert.equal(body.min_tokens, 2);
  assert.equal(body.reasoning_effort, "low");
  assert.equal(body.top_logprobs, 5);
  assert.deepEqual(body.tools, [{ type: "function", function: { name: "f", parameters: {} } }]);
  assert.equal(body.continue_final_message, undefined);
});

test("a request that continues says so", () => {
  const body = chatRequest([user("q", null), said("a", "q")], {}, { isContinued: true });
  assert.equal(body.continue_final_message, true);
  assert.equal(body.add_generation_prompt, false);
  assert.equal(body.model, undefined);
});

test("calls and results are messages of the API", () => {
  const call = { id: "c", type: "function", function: { name: "f", arguments: "{}" } };
  const result = { id: "t", parent: "a", role: "tool", content: "5", tool_call_id: "c" };
  const { messages } = chatRequest([said("a", null, { content: "", tool_calls: [call] }), result], {});
  assert.deepEqual(messages, [
    { role: "assistant", content: "", tool_calls: [call] },
    { role: "tool", content: "5", tool_call_id: "c" },
  ]);
});

test("settings that are not JSON of the right kind are errors", () => {
  assert.deepEqual(parseTools(" "), []);
  assert.equal(parseTools('{"name": "f"}')[0].function.name, "f");
  for (const wrong of ["[", "[1]", '[{"type": "function"}]', '{"nam": 1}']) {
    assert.throws(() => parseTools(wrong), wrong);
  }
  assert.deepEqual(parseExtra(""), {});
  for (const wrong of ["{", "[]", "null", "1"]) assert.throws(() => parseExtra(wrong), wrong);
});

test("only images that are in the message are shown", () => {
  const png = "data:image/png;base64,AAAA";
  const content = contentOf("text", [png]);
  assert.equal(textOf(content), "text");
  assert.deepEqual(imagesOf(content), [png]);
  const urls = ["https://example.org/a.png", "data:image/svg+xml;base64,AAAA", "data:text/html,x", undefined];
  for (const url of urls) assert.deepEqual(imagesOf([{ type: "image_url", image_url: { url } }]), []);
  assert.equal(contentOf("text", []), "text");
  assert.equal(textOf(null), "");
});

test("a title is the first line with letters, not too long", () => {
  assert.equal(titleOf("\n```\n# **Hello** world\nmore"), "Hello world");
  assert.equal(titleOf("word ".repeat(40)), `${"word ".repeat(12).trim()}…`);
  assert.ok(titleOf("😀".repeat(100)).isWellFormed());
  assert.equal(titleOf("؟ مرحبا"), "؟ مرحبا");
  assert.equal(titleOf(""), "");
});

test("branches are messages with the same parent and role", () => {
  const messages = [user("q", null), said("a", "q"), said("b", "q"), user("p", "a"), user("r", "a"), user("s", null)];
  const ids = (message) => alternativesTo(messages, message).map(({ id }) => id);
  assert.deepEqual(ids(messages[1]), ["a", "b"]);
  assert.deepEqual(ids(messages[0]), ["q", "s"]);
  assert.deepEqual(ids(messages[3]), ["p", "r"]);
  const found = alternativesOf(messages, [messages[0], messages[2]]);
  assert.deepEqual([...found], [["q", ["q", "s"]], ["b", ["a", "b"]]]);
});

test("what was continued is no alternative to its continuation", () => {
  const messages = [user("q", null), said("a", "q"), said("b", "q", { data: { continues: "a" } }), said("c", "q")];
  assert.deepEqual(alternativesTo(messages, messages[2]).map(({ id }) => id), ["b", "c"]);
  assert.deepEqual(alternativesTo(messages, messages[1]).map(({ id }) => id), ["a", "b", "c"]);
});

test("an answer that never began is no alternative", () => {
  const messages = [user("q", null), said("a", "q", { status: "failed", content: "" }), said("b", "q")];
  assert.deepEqual(alternativesTo(messages, messages[2]).map(({ id }) => id), ["b"]);
  assert.deepEqual(alternativesTo(messages, messages[1]).map(({ id }) => id), ["a", "b"]);
});

test("calls wait for their results", () => {
  const calls = [{ id: "x" }, { id: "y" }];
  const asked = said("a", null, { tool_calls: calls });
  const result = { id: "t", parent: "a", role: "tool", tool_call_id: "x" };
  assert.deepEqual(openCalls([asked]).calls, calls);
  assert.deepEqual(openCalls([asked, result]).calls, [{ id: "y" }]);
  assert.equal(openCalls([asked, result, { ...result, tool_call_id: "y" }]), null);
  assert.equal(openCalls([{ ...asked, status: "running" }]), null);
  assert.equal(openCalls([asked, user("q", "a")]), null);
  assert.equal(openCalls([]), null);
});

test("what another client has stored in another form is shown as far as it can be", () => {
  assert.deepEqual(functionOf({}), { name: "", arguments: "" });
  assert.deepEqual(functionOf({ function: null }), { name: "", arguments: "" });
  assert.deepEqual(functionOf({ function: "f" }), { name: "", arguments: "" });
  assert.deepEqual(functionOf({ function: { name: ["f"], arguments: { x: 1 } } }), { name: "", arguments: '{\n  "x": 1\n}' });
  assert.deepEqual(functionOf({ function: { name: "f", arguments: '{"x":1' } }), { name: "f", arguments: '{"x":1' });
  for (const tokens of [[null], [7], [["a"]], [["a", "b"]], [["a", -1, 5]], [["a", -1, [null]]], [["a", -1, []], {}], {}]) {
    assert.deepEqual(tokensOf({ tokens }), [], JSON.stringify(tokens));
  }
  assert.deepEqual(tokensOf({ tokens: [["a", -1]] }), [{ text: "a", logprob: -1, others: [] }]);
  assert.equal(openCalls([said("a", null, { tool_calls: [{}, { id: { x: 1 } }] })]), null);
});

test("colours follow the probability", () => {
  assert.deepEqual([1, 0.9, 0.7, 0.5, 0.2, 0.01, 0].map((p) => levelOf(Math.log(p))), [0, 0, 1, 2, 3, 4, 4]);
  assert.equal(visibleToken(" a\n\u202e"), "␣a↵[RLO]");
});

test("the model that answers is the chosen one, or the server's", () => {
  const list = [{ id: "a" }, { id: "b", status: "loaded" }, { id: "c" }];
  assert.equal(modelOf(list, "c").id, "c");
  assert.equal(modelOf(list, "gone").id, "b");
  assert.equal(modelOf([...list, { id: "d", default: true }], null).id, "d");
  assert.equal(modelOf([{ id: "a" }], null).id, "a");
  assert.equal(modelOf([], "a"), null);
  assert.equal(modelOf(null, "a"), null);
});

test("the lab takes a text and the parameters that it has controls for", () => {
  const sampling = { top_k: 3, seed: 7, max_tokens: 9 };
  assert.deepEqual(labState({ model: "m", text: "One two", sampling }), {
    model: "m", mode: "text", text: "One two", system: "", settings: { top_k: 3 }, seed: 7, answer: [], branches: [],
  });
});

test("comments of a stream are told from its data", async () => {
  const body = new Blob([": queued 1 of 2\n\n", "data: {}\n\n", ": ping\n\nevent: x\ndata: 1\ndata: 2\n\n"]).stream();
  const found = [];
  for await (const event of events(body)) found.push(event);
  assert.deepEqual(found, [
    { event: "comment", data: "queued 1 of 2" }, { event: "message", data: "{}" },
    { event: "comment", data: "ping" }, { event: "x", data: "1\n2" },
  ]);
});

test("what comes after the tokens with probabilities is shown too", () => {
  const answer = new Answer();
  const token = { token: "ab", logprob: -1, top_logprobs: [] };
  for (let count = 0; count < MAX_TOKENS; count += 1) answer.add(delta({ content: "ab" }, { logprobs: { content: [token] } }), 0);
  assert.equal(afterTokens(answer.content, answer.tokens), "");
  answer.add(delta({ content: "cd" }, { logprobs: { content: [token] } }), 0);
  assert.equal(afterTokens(answer.content, answer.tokens), "cd");
  assert.equal(afterTokens("cd", []), "", "an answer without probabilities is shown as it is");
});

test("a picture that was copied beside its text is not what is pasted", () => {
  const image = { type: "image/png" };
  const clipboard = (text) => ({ files: [image], getData: (type) => (type === "text/plain" ? text : "") });
  assert.deepEqual(pastedImages(clipboard("12\t13")), []);
  assert.deepEqual(pastedImages(clipboard("")), [image]);
  assert.deepEqual(pastedImages(null), []);
});
