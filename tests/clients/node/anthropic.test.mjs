// The anthropic client for Node.
import assert from "node:assert/strict";
import { test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";

const { OFFGRID_URL: baseURL, OFFGRID_MODEL: model } = process.env;
const client = new Anthropic({ baseURL, apiKey: "any", maxRetries: 0 });
const messages = [{ role: "user", content: "Tell me a short story." }];
const system = "Answer in one sentence, and be kind to everybody who asks you anything. ".repeat(5);
const asked = { model, messages, system, temperature: 0, max_tokens: 30 };
const tools = [{
  name: "get_weather",
  description: "The weather of a city",
  input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
}];

test("models", async () => {
  const ids = [];
  for await (const entry of client.models.list()) ids.push(entry.id);
  assert.deepEqual(ids, [model]);
  assert.equal((await client.models.retrieve(model)).type, "model");
});

test("a message, whole and streamed", async () => {
  const whole = await client.messages.create(asked);
  const [block] = whole.content;
  assert.equal(block.type, "text");
  assert.match(whole._request_id, /^req_/);
  let text = "";
  const stream = client.messages.stream(asked).on("text", (delta) => { text += delta; });
  const final = await stream.finalMessage();
  assert.equal(text, block.text);
  assert.equal(final.content[0].text, block.text);
  assert.equal(final.usage.output_tokens, whole.usage.output_tokens);
  assert.ok(final.usage.cache_read_input_tokens > 0);
  const kinds = [];
  for await (const event of await client.messages.create({ ...asked, stream: true })) {
    kinds.push(event.type);
  }
  assert.equal(kinds[0], "message_start");
  assert.deepEqual(kinds.slice(-3), ["content_block_stop", "message_delta", "message_stop"]);
});

test("a count", async () => {
  const { input_tokens: tokens } = await client.messages.countTokens({ model, messages, system });
  const { usage } = await client.messages.create({ ...asked, max_tokens: 1 });
  assert.equal(tokens, usage.input_tokens + usage.cache_read_input_tokens);
});

test("a call and its result", async () => {
  const choice = { type: "tool", name: "get_weather" };
  const stream = client.messages.stream({ ...asked, tools, tool_choice: choice, max_tokens: 100 });
  let json = "";
  stream.on("inputJson", (delta) => { json += delta; });
  const answer = await stream.finalMessage();
  assert.equal(answer.stop_reason, "tool_use");
  const [call] = answer.content;
  assert.deepEqual(call.input, JSON.parse(json));
  const result = { type: "tool_result", tool_use_id: call.id, content: "rain" };
  const last = await client.messages.create({
    ...asked,
    tools,
    messages: [
      ...messages,
      { role: "assistant", content: answer.content },
      { role: "user", content: [result] },
    ],
  });
  assert.equal(last.role, "assistant");
});

test("errors", async () => {
  await assert.rejects(client.messages.create({ ...asked, model: "none" }), (error) => {
    assert.ok(error instanceof Anthropic.NotFoundError);
    assert.equal(error.error.error.type, "not_found_error");
    assert.match(error.requestID, /^req_/);
    return true;
  });
  await assert.rejects(client.messages.create({ ...asked, temperature: 2 }),
    Anthropic.BadRequestError);
});
