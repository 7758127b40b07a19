// The Vercel AI SDK, which validates every response, through both of its providers.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import {
  APICallError, embedMany, generateText, Output, stepCountIs, streamText, tool,
} from "ai";
import { z } from "zod";

const { OFFGRID_URL, OFFGRID_MODEL: id } = process.env;
const baseURL = `${OFFGRID_URL}/v1`;
const compatible = createOpenAICompatible({ name: "offgrid", baseURL, includeUsage: true });
const openai = createOpenAI({ baseURL, apiKey: "any" });
const structured = createOpenAICompatible({
  name: "offgrid", baseURL, supportsStructuredOutputs: true,
}).chatModel(id);
const models = {
  "openai-compatible": compatible.chatModel(id),
  openai: openai.chat(id),
  "openai responses": openai.responses(id),
};
const asked = {
  prompt: "Tell me a short story.", temperature: 0, maxOutputTokens: 30, maxRetries: 0,
};

async function read({ fullStream }) {
  const parts = [];
  for await (const part of fullStream) parts.push(part);
  assert.deepEqual(parts.filter((part) => part.type === "error"), []);
  return parts;
}

for (const [name, model] of Object.entries(models)) {
  test(`${name}: an answer, whole and streamed`, async () => {
    const whole = await generateText({ ...asked, model });
    const stream = streamText({ ...asked, model });
    const parts = await read(stream);
    const text = parts.filter((part) => part.type === "text-delta").map((part) => part.text);
    assert.equal(text.join(""), whole.text);
    assert.equal(whole.finishReason, "length");
    assert.equal(await stream.finishReason, "length");
    assert.equal(whole.usage.outputTokens, 30);
    assert.equal((await stream.usage).outputTokens, 30);
    assert.ok(whole.usage.inputTokens > 0);
    assert.deepEqual(whole.warnings ?? [], []);
  });

  test(`${name}: a tool that is called, whole and streamed`, async () => {
    const cities = [];
    const options = {
      model, temperature: 0, maxRetries: 0, maxOutputTokens: 200, stopWhen: stepCountIs(2),
      prompt: "What is the weather in Oslo?",
      tools: {
        get_weather: tool({
          description: "The weather of a city",
          inputSchema: z.object({ city: z.string() }),
          execute: ({ city }) => { cities.push(city); return "8 degrees and rain"; },
        }),
      },
    };
    const whole = await generateText(options);
    assert.equal(whole.steps[0].finishReason, "tool-calls");
    assert.equal(whole.steps.length, 2);
    await read(streamText(options));
    assert.equal(cities.length, 2);
    assert.equal(cities[0], cities[1]);
  });

  test(`${name}: errors`, async () => {
    await assert.rejects(
      generateText({ ...asked, model, temperature: 3 }),
      (error) => APICallError.isInstance(error) && error.statusCode === 400
        && error.message.includes("temperature") && !error.isRetryable,
    );
  });
}

for (const [name, model] of [
  ["openai-compatible", structured],
  ["openai", models.openai],
  ["openai responses", models["openai responses"]],
]) {
  test(`${name}: an object by a schema, whole and streamed`, async () => {
    const City = z.object({ warm: z.boolean(), size: z.enum(["small", "large"]) });
    const options = { ...asked, model, maxOutputTokens: 200, output: Output.object({ schema: City }) };
    const whole = await generateText(options);
    City.parse(whole.output);
    const stream = streamText(options);
    await read(stream);
    assert.deepEqual(await stream.output, whole.output);
  });
}

test("text completions", async () => {
  const model = compatible.completionModel(id);
  const whole = await generateText({ ...asked, model, maxOutputTokens: 8 });
  assert.equal(whole.usage.outputTokens, 8);
  const parts = await read(streamText({ ...asked, model, maxOutputTokens: 8 }));
  assert.equal(
    parts.filter((part) => part.type === "text-delta").map((part) => part.text).join(""),
    whole.text,
  );
});

test("embeddings", async () => {
  for (const model of [compatible.textEmbeddingModel(id), openai.textEmbeddingModel(id)]) {
    const { embeddings, usage } = await embedMany({ model, values: ["a fox", "a river"] });
    assert.equal(embeddings.length, 2);
    assert.ok(embeddings[0].length > 1);
    assert.ok(usage.tokens > 0);
  }
});

test("a model that is not there", async () => {
  await assert.rejects(
    generateText({ ...asked, model: compatible.chatModel("nothing") }),
    (error) => APICallError.isInstance(error) && error.statusCode === 404
      && error.message.startsWith("Model not found: nothing. "),
  );
});
