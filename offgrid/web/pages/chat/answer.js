/** Puts an answer together from the chunks of a stream. Pure. */

/** Tokens of an answer whose probabilities are kept. */
export const MAX_TOKENS = 4_000;

/** Characters of an answer that are sent to the history in about a second. */
const SAVED_PER_SECOND = 32_000;

/**
 * Whether an answer that grows is to be saved again. The history gets the whole answer each time, so
 * that a request which is repeated or comes late does no harm; therefore a long one is saved less
 * often, and the network has no more to do for it than for a short one.
 * @param {number} seconds since it was saved
 * @param {number} length its characters
 */
export function isDue(seconds, length) {
  return seconds * SAVED_PER_SECOND >= length;
}

/**
 * @typedef {object} Token
 * @property {string} text
 * @property {number} logprob natural logarithm of its probability
 * @property {[string, number][]} others the most likely tokens at its place, with their logprobs
 */

export class Answer {
  content;
  reasoning;
  /** As in a message of OpenAI's API: {id, type, function: {name, arguments}}. */
  calls = [];
  /** @type {Token[]} */
  tokens = [];
  timings = null;
  usage = null;
  finish = null;
  model = null;
  /** How far the prompt is: {total, cache, processed}. */
  progress = null;
  /** Its place in the queue: {place, count, seconds}; `seconds` may be missing. */
  queue = null;
  /** Milliseconds of reasoning; null without any. */
  reasoningMs = null;
  /** Whether the model has written anything yet, besides what it continues. */
  hasBegun = false;

  #decoder = new TextDecoder();
  #reasoningFrom = null;

  /** @param {{content?: string|null, reasoning?: string|null}} [begun] what is continued */
  constructor({ content = "", reasoning = "" } = {}) {
    this.content = content ?? "";
    this.reasoning = reasoning ?? "";
  }

  /**
   * Adds a chunk.
   * @param {object} chunk of `/v1/chat/completions`
   * @param {number} now milliseconds
   */
  add(chunk, now) {
    this.model = chunk.model ?? this.model;
    this.timings = chunk.timings ?? this.timings;
    this.usage = chunk.usage ?? this.usage;
    this.progress = chunk.prompt_progress ?? this.progress;
    const choice = chunk.choices?.[0];
    if (!choice) return;
    this.#addDelta(choice.delta ?? {}, now);
    this.#addTokens(choice);
    if (choice.finish_reason) {
      this.finish = choice.finish_reason;
      this.#endReasoning(now);
    }
  }

  /**
   * Takes a comment of the stream: what a request that waits is told every few seconds.
   * @param {string} comment such as `queued 3 of 7, about 12 s`
   */
  addComment(comment) {
    const found = /^queued (\d+) of (\d+)(?:, about (\d+) s)?/.exec(comment);
    if (!found) return;
    const [place, count, seconds] = found.slice(1).map((text) => text && Number(text));
    this.queue = { place, count, seconds };
  }

  #addDelta(delta, now) {
    this.hasBegun ||= Boolean(delta.content || delta.reasoning_content || delta.tool_calls);
    if (delta.reasoning_content) {
      this.#reasoningFrom ??= now;
      this.reasoning += delta.reasoning_content;
    }
    if (delta.content || delta.tool_calls) this.#endReasoning(now);
    this.content += delta.content ?? "";
    for (const part of delta.tool_calls ?? []) this.#addCall(part);
  }

  #endReasoning(now) {
    if (this.#reasoningFrom !== null) this.reasoningMs ??= Math.round(now - this.#reasoningFrom);
  }

  #addCall({ index = 0, id, function: part = {} }) {
    // A new object, because a message that is shown holds the old one.
    const call = this.calls[index] ?? { id: "", type: "function", function: { name: "", arguments: "" } };
    this.calls = [...this.calls];
    this.calls[index] = {
      ...call,
      id: id ?? call.id,
      function: {
        name: call.function.name + (part.name ?? ""),
        arguments: call.function.arguments + (part.arguments ?? ""),
      },
    };
  }

  #addTokens({ delta, logprobs }) {
    // The tokens of reasoning and calls are not part of the text that is coloured.
    if (!logprobs?.content || !delta?.content) return;
    for (const { token, bytes, logprob, top_logprobs: others } of logprobs.content) {
      if (this.tokens.length >= MAX_TOKENS) return;
      const text = bytes ? this.#decoder.decode(new Uint8Array(bytes), { stream: true }) : token;
      this.tokens.push({ text, logprob, others: (others ?? []).map((one) => [one.token, one.logprob]) });
    }
  }

  /** What the message in the history gets. */
  patch() {
    return {
      content: this.content,
      reasoning: this.reasoning || null,
      tool_calls: this.calls.length ? this.calls : null,
    };
  }

  /** What is told about the answer, for `data` of the message. */
  about() {
    const { timings, usage, finish, reasoningMs, tokens } = this;
    return {
      ...(timings && { timings: shortTimings(timings) }),
      ...(usage && { usage: { prompt_tokens: usage.prompt_tokens, completion_tokens: usage.completion_tokens } }),
      ...(finish && { finish_reason: finish }),
      ...(reasoningMs !== null && { reasoning_ms: reasoningMs }),
      ...(tokens.length && { tokens: tokens.map(shortToken) }),
    };
  }
}

function shortTimings(timings) {
  const names = ["cache_n", "prompt_n", "prompt_ms", "predicted_n", "predicted_ms", "predicted_per_second"];
  return Object.fromEntries(names.map((name) => [name, round(timings[name] ?? 0, 2)]));
}

function shortToken({ text, logprob, others }) {
  return [text, round(logprob, 4), others.map(([other, value]) => [other, round(value, 4)])];
}

function round(value, digits) {
  // A banned token has the logprob minus infinity, which the server writes as a large number.
  return Number(value.toFixed(digits));
}

/**
 * The text of an answer after its tokens: probabilities are kept only of the first `MAX_TOKENS`.
 * @param {string} content
 * @param {Token[]} tokens
 */
export function afterTokens(content, tokens) {
  if (tokens.length < MAX_TOKENS) return "";
  return content.slice(tokens.reduce((sum, { text }) => sum + text.length, 0));
}

/**
 * The tokens of a message from its `data`.
 * @param {object} [data]
 * @returns {Token[]}
 */
export function tokensOf(data) {
  if (!Array.isArray(data?.tokens)) return [];
  // Another client may have stored anything. If one token is wrong, the others are not the whole text.
  if (!data.tokens.every((token) => isPair(token) && (token[2] ?? []).every?.(isPair))) return [];
  return data.tokens.map(([text, logprob, others]) => ({ text, logprob, others: others ?? [] }));
}

function isPair(value) {
  return Array.isArray(value) && typeof value[0] === "string" && typeof value[1] === "number";
}
