// The settings as a command and as a program, which ask for a real answer. Pure.

import { fieldsOf, messagesOf } from "./settings.js";

/** Fields that OpenAI's Python client has as arguments; the others go into extra_body. */
const OPENAI = new Set(["temperature", "top_p", "frequency_penalty", "presence_penalty", "logit_bias", "seed", "model", "messages", "prompt", "max_tokens"]);
const MAX_TOKENS = 200;

/** The request for an answer with these settings, and its path. */
export function realRequest({ model, mode, text, system, settings, seed }) {
  const prompt = mode === "chat" ? { messages: messagesOf(system, text) } : { prompt: text };
  const body = { model, ...prompt, max_tokens: MAX_TOKENS, ...fieldsOf(settings), ...(seed === null ? {} : { seed }) };
  return { path: mode === "chat" ? "v1/chat/completions" : "v1/completions", body };
}

/** A command for a POSIX shell. */
export function curl(state, root, needsKey) {
  const { path, body } = realRequest(state);
  const json = JSON.stringify(body, null, 2);
  return [
    `curl ${quoted(root + path)} \\`,
    "  -H 'Content-Type: application/json' \\",
    ...(needsKey ? ['  -H "Authorization: Bearer $OFFGRID_API_KEY" \\'] : []),
    `  -d ${quoted(json)}`,
  ].join("\n");
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** A program that uses OpenAI's client for Python. */
export function python(state, root, needsKey) {
  const { body } = realRequest(state);
  const chat = state.mode === "chat";
  const entries = Object.entries(body);
  const own = entries.filter(([name]) => OPENAI.has(name));
  const extra = entries.filter(([name]) => !OPENAI.has(name));
  const key = needsKey ? 'os.environ["OFFGRID_API_KEY"]' : '"not-needed"';
  return [
    ...(needsKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${literal(`${root}v1`)}, api_key=${key})`,
    `answer = client.${chat ? "chat.completions" : "completions"}.create(`,
    ...own.map(([name, value]) => `    ${name}=${literal(value)},`),
    ...(extra.length ? [`    extra_body=${literal(Object.fromEntries(extra))},`] : []),
    ")",
    `print(answer.choices[0].${chat ? "message.content" : "text"})`,
  ].join("\n");
}

/** A value as Python writes it. */
export function literal(value) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([name, one]) => `${literal(name)}: ${literal(one)}`).join(", ")}}`;
  }
  // The escapes of JSON mean the same in Python, but for characters beyond 16 bits in pairs.
  return JSON.stringify(value);
}
