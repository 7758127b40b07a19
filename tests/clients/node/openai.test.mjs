// The openai client for Node.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const { OFFGRID_URL, OFFGRID_MODEL: model } = process.env;
const client = new OpenAI({ baseURL: `${OFFGRID_URL}/v1`, apiKey: "any", maxRetries: 0 });
const messages = [{ role: "user", content: "Tell me a short story." }];
const asked = { model, messages, temperature: 0, max_tokens: 30 };

test("models", async () => {
  const ids = [];
  for await (const entry of client.models.list()) ids.push(entry.id);
  assert.deepEqual(ids, [model]);
  assert.equal((await client.models.retrieve(model)).owned_by, "offgrid-llm");
});

test("an answer, whole and streamed", async () => {
  const whole = await client.chat.completions.create(asked);
  const stream = await client.chat.completions.create({
    ...asked, stream: true, stream_options: { include_usage: true },
  });
  let text = "";
  let last;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    last = chunk;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.deepEqual(last.choices, []);
  assert.equal(last.usage.completion_tokens, 30);
  assert.equal(whole.usage.completion_tokens, 30);
  assert.match(whole._request_id, /^req_/);
});

test("the stream helper", async () => {
  const two = { ...asked, n: 2, seed: 4, temperature: 1 };
  const final = await client.chat.completions.stream(two).finalChatCompletion();
  const whole = await client.chat.completions.create(two);
  final.choices.forEach((choice, index) => {
    assert.equal(choice.message.role, "assistant");
    assert.equal(choice.message.content, whole.choices[index].message.content);
    assert.equal(choice.finish_reason, whole.choices[index].finish_reason);
  });
  assert.equal(final.choices.length, 2);
});

test("logprobs", async () => {
  const answer = await client.chat.completions.create({
    ...asked, logprobs: true, top_logprobs: 2,
  });
  const tokens = answer.choices[0].logprobs.content;
  assert.equal(tokens.length, 30);
  const bytes = Buffer.from(tokens.flatMap((token) => token.bytes));
  assert.equal(bytes.toString("utf8"), answer.choices[0].message.content);
});

test("text completions", async () => {
  const whole = await client.completions.create({
    model, prompt: ["Once upon", "OffGrid is"], max_tokens: 5, temperature: 0,
  });
  const texts = ["", ""];
  const stream = await client.completions.create({
    model, prompt: ["Once upon", "OffGrid is"], max_tokens: 5, temperature: 0, stream: true,
  });
  for await (const chunk of stream) {
    for (const choice of chunk.choices) texts[choice.index] += choice.text;
  }
  assert.deepEqual(texts, whole.choices.map((choice) => choice.text));
});

test("embeddings, which the client asks for in base64", async () => {
  const input = ["a fox", "a river"];
  const decoded = await client.embeddings.create({ model, input });
  const numbers = await client.embeddings.create({ model, input, encoding_format: "float" });
  decoded.data.forEach((item, index) => {
    assert.ok(item.embedding.length > 1);
    assert.deepEqual(item.embedding, Array.from(Float32Array.from(numbers.data[index].embedding)));
  });
});

test("tools", async () => {
  const tools = [{
    type: "function",
    function: {
      name: "get_weather",
      description: "The weather of a city",
      parameters: {
        type: "object",
        properties: { city: { type: "string" } },
        required: ["city"],
        additionalProperties: false,
      },
    },
  }];
  const question = {
    model, temperature: 0, max_tokens: 200, tools, tool_choice: "required",
    messages: [{ role: "user", content: "What is the weather in Oslo?" }],
  };
  const whole = await client.chat.completions.create(question);
  const [call] = whole.choices[0].message.tool_calls;
  assert.equal(whole.choices[0].finish_reason, "tool_calls");
  assert.equal(call.function.name, "get_weather");
  JSON.parse(call.function.arguments);
  const final = await client.chat.completions.stream(question).finalChatCompletion();
  const [streamed] = final.choices[0].message.tool_calls;
  assert.equal(streamed.function.arguments, call.function.arguments);
  const result = { role: "tool", tool_call_id: call.id, content: "8 degrees and rain" };
  const after = await client.chat.completions.create({
    ...question, tool_choice: "auto",
    messages: [...question.messages, whole.choices[0].message, result],
  });
  assert.ok(after.choices[0].message.content || after.choices[0].message.tool_calls);
  assert.ok(after.usage.prompt_tokens > whole.usage.prompt_tokens);
});

test("parse, by a zod schema", async () => {
  const City = z.object({ warm: z.boolean(), size: z.enum(["small", "large"]) });
  const answer = await client.chat.completions.parse({
    ...asked, max_tokens: 200, response_format: zodResponseFormat(City, "city"),
  });
  City.parse(answer.choices[0].message.parsed);
});

test("responses, whole, streamed and continued", async () => {
  const question = { model, input: "Hello!", temperature: 0 };
  const whole = await client.responses.create(question);
  const streamed = await client.responses.stream(question).finalResponse();
  assert.equal(streamed.output_text, whole.output_text);
  assert.deepEqual(streamed.usage.output_tokens, whole.usage.output_tokens);
  const next = await client.responses.create({
    ...question, input: "And now?", previous_response_id: whole.id,
  });
  assert.ok(next.usage.input_tokens > whole.usage.input_tokens);
  const items = [];
  for await (const item of client.responses.inputItems.list(next.id)) items.push(item);
  assert.equal(items.length, 1);
  await client.responses.delete(whole.id);
  await assert.rejects(client.responses.retrieve(whole.id), OpenAI.NotFoundError);
});

test("errors have their classes", async () => {
  await assert.rejects(
    client.chat.completions.create({ ...asked, temperature: 3 }),
    (error) => error instanceof OpenAI.BadRequestError
      && error.param === "temperature" && error.code === "invalid_value",
  );
  await assert.rejects(
    client.chat.completions.create({ ...asked, model: "some/model" }),
    (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found",
  );
  await assert.rejects(client.models.retrieve("some/model"), OpenAI.NotFoundError);
  await assert.rejects(client.images.generate({ prompt: "x" }), OpenAI.NotFoundError);
});

test("a stream that the client leaves", async () => {
  const stream = await client.chat.completions.create({
    ...asked, stream: true, max_tokens: 1000, ignore_eos: true,
  });
  for await (const chunk of stream) {
    if (chunk.choices[0].delta.content) break;
  }
  const controller = new AbortController();
  const pending = client.chat.completions.create(
    { ...asked, max_tokens: 1900, ignore_eos: true }, { signal: controller.signal },
  );
  controller.abort();
  await assert.rejects(pending, OpenAI.APIUserAbortError);
  assert.ok(await client.chat.completions.create({ ...asked, max_tokens: 1 }));
});
