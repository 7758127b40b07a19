// The ollama client for Node: every call.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Ollama } from "ollama";

const { OFFGRID_URL: host, OFFGRID_MODEL: model } = process.env;
const client = new Ollama({ host });
const messages = [{ role: "user", content: "Tell me a short story." }];
const options = { temperature: 0, num_predict: 30 };
const tool = {
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather of a city",
    parameters: {
      type: "object", properties: { city: { type: "string" } }, required: ["city"],
    },
  },
};

test("an answer, whole and streamed", async () => {
  const whole = await client.chat({ model, messages, options });
  let text = "";
  let last;
  for await (const part of await client.chat({ model, messages, options, stream: true })) {
    text += part.message.content;
    last = part;
  }
  assert.equal(text, whole.message.content);
  assert.equal(last.done, true);
  assert.equal(last.eval_count, 30);
  assert.equal(whole.done_reason, "length");
  assert.ok(whole.total_duration > 0);
});

test("a stream that is aborted", async () => {
  const stream = await client.chat({ model, messages, options: { ignore_eos: true }, stream: true });
  await assert.rejects(async () => {
    for await (const part of stream) if (part) stream.abort();
  }, { name: "AbortError" });
});

test("a call", async () => {
  const asked = [{ role: "user", content: "What is the weather in Oslo?" }];
  const answer = await client.chat({ model, messages: asked, tools: [tool], options: { temperature: 0 } });
  const [call] = answer.message.tool_calls;
  assert.equal(call.function.name, "get_weather");
  assert.deepEqual(call.function.arguments, { city: "Oslo" });
  const result = { role: "tool", content: "It rains.", tool_name: "get_weather" };
  const again = await client.chat({
    model, messages: [...asked, answer.message, result], tools: [tool], options,
  });
  assert.ok(again.prompt_eval_count > answer.prompt_eval_count);
});

test("a schema, and logprobs", async () => {
  const format = {
    type: "object", properties: { age: { type: "integer" } }, required: ["age"],
  };
  const answer = await client.chat({ model, messages, format, options: { temperature: 0 } });
  assert.ok(Number.isInteger(JSON.parse(answer.message.content).age));
  const scored = await client.chat({ model, messages, options, logprobs: true, top_logprobs: 1 });
  assert.equal(scored.logprobs.map((token) => token.token).join(""), scored.message.content);
});

test("generate", async () => {
  const asked = { model, prompt: "Hello!", options };
  const whole = await client.generate(asked);
  let text = "";
  for await (const part of await client.generate({ ...asked, stream: true })) text += part.response;
  assert.equal(text, whole.response);
  const again = await client.generate({ ...asked, prompt: "And now?", context: whole.context });
  assert.ok(again.prompt_eval_count > whole.prompt_eval_count);
  const raw = await client.generate({ model, prompt: "Once upon", raw: true, options });
  assert.equal(raw.eval_count, 30);
});

test("embeddings", async () => {
  const { embeddings } = await client.embed({ model, input: ["otter", "fox"] });
  assert.equal(embeddings.length, 2);
  const { embedding } = await client.embeddings({ model, prompt: "otter" });
  assert.deepEqual(embedding, embeddings[0]);
});

test("models", async () => {
  const { models } = await client.list();
  assert.deepEqual(models.map((entry) => entry.name), [`${model}:latest`]);
  const shown = await client.show({ model });
  assert.deepEqual(shown.capabilities, ["completion", "tools"]);
  assert.equal((await client.ps()).models[0].name, `${model}:latest`);
  assert.equal(typeof (await client.version()).version, "string");
  assert.equal((await client.pull({ model })).status, "success");
  assert.equal((await client.generate({ model, prompt: "" })).done_reason, "load");
});

test("what is not offered, and errors", async () => {
  for (const call of [
    () => client.create({ model: "mine", from: model }),
    () => client.copy({ source: model, destination: "mine" }),
    () => client.push({ model }),
    () => client.delete({ model }),
  ]) await assert.rejects(call, { name: "ResponseError", status_code: 501 });
  await assert.rejects(client.pull({ model: "qwen3:4b" }), /fetches nothing from a network/);
  await assert.rejects(client.chat({ model: "other", messages }), { status_code: 404 });
  await assert.rejects(
    client.chat({ model, messages, options: { temperature: -1 } }), /options.temperature must be/,
  );
});
