/** What the page asks the server for: messages, settings and tools of a conversation. Pure. */

/** Settings of sampling, in the order of the form, with the values that the server allows. */
export const SAMPLING = [
  { name: "temperature", min: 0, max: 2, step: 0.05, usual: 0.7 },
  { name: "top_p", min: 0, max: 1, step: 0.01, usual: 0.95 },
  { name: "top_k", min: -1, max: 100_000, step: 1, usual: 0 },
  { name: "min_p", min: 0, max: 1, step: 0.01, usual: 0 },
  { name: "repetition_penalty", min: 0.01, max: 100, step: 0.01, usual: 1 },
  { name: "presence_penalty", min: -2, max: 2, step: 0.1, usual: 0 },
  { name: "frequency_penalty", min: -2, max: 2, step: 0.1, usual: 0 },
  { name: "max_tokens", min: 1, max: 1_000_000, step: 1 },
  { name: "seed", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 },
];

/**
 * @typedef {object} ChatSettings
 * @property {string|null} [model] id
 * @property {string} [system] system prompt
 * @property {Record<string, number>} [sampling]
 * @property {string} [effort] reasoning effort; empty: the model's
 * @property {string} [tools] JSON of a list of tools
 * @property {string} [extra] JSON of an object with further fields of the request
 */

/**
 * Reads the tools of the settings.
 * @param {string} [text]
 * @returns {object[]}
 * @throws {Error} not JSON, or not a list of functions
 */
export function parseTools(text) {
  if (!text?.trim()) return [];
  const value = JSON.parse(text);
  const tools = Array.isArray(value) ? value : [value];
  return tools.map((tool) => {
    const whole = tool?.type === "function" ? tool : { type: "function", function: tool };
    if (typeof whole.function?.name !== "string") throw new TypeError("name");
    return whole;
  });
}

/**
 * Reads the further fields of the settings.
 * @param {string} [text]
 * @returns {object}
 * @throws {Error} not JSON, or not an object
 */
export function parseExtra(text) {
  if (!text?.trim()) return {};
  const value = JSON.parse(text);
  if (!value || typeof value !== "object" || Array.isArray(value)) throw new TypeError("object");
  return value;
}

/**
 * The body of a request to `/v1/chat/completions`.
 * @param {object[]} path messages of the history, the first one first
 * @param {ChatSettings} settings
 * @param {{probabilities?: boolean, isContinued?: boolean}} [options] `isContinued`: the answer
 *     continues the last message
 */
export function chatRequest(path, settings, { probabilities = false, isContinued = false } = {}) {
  const tools = parseTools(settings.tools);
  return {
    ...(settings.model && { model: settings.model }),
    messages: chatMessages(path, settings.system),
    stream: true,
    stream_options: { include_usage: true },
    return_progress: true,
    timings_per_token: true,
    ...(probabilities && { logprobs: true, top_logprobs: 5 }),
    ...(tools.length && { tools }),
    ...(settings.effort && { reasoning_effort: settings.effort }),
    ...sampling(settings.sampling),
    ...parseExtra(settings.extra),
    ...(isContinued && { continue_final_message: true, add_generation_prompt: false }),
  };
}

function sampling(given = {}) {
  const known = SAMPLING.filter(({ name }) => typeof given[name] === "number");
  return Object.fromEntries(known.map(({ name }) => [name, given[name]]));
}

/**
 * Messages in the form of the API.
 * @param {object[]} path
 * @param {string} [system]
 */
export function chatMessages(path, system) {
  const messages = path.filter(saysSomething).map(chatMessage);
  return system?.trim() ? [{ role: "system", content: system }, ...messages] : messages;
}

/** An answer that failed before its first token is no message. */
function saysSomething({ role, content, tool_calls: calls }) {
  return role !== "assistant" || Boolean(content) || Boolean(calls?.length);
}

function chatMessage({ role, content, reasoning, tool_calls: calls, tool_call_id: callId }) {
  return {
    role,
    content: content ?? "",
    ...(role === "assistant" && reasoning && { reasoning_content: reasoning }),
    ...(role === "assistant" && calls?.length && { tool_calls: calls }),
    ...(role === "tool" && callId && { tool_call_id: callId }),
  };
}

/**
 * The text of a message's content.
 * @param {string|object[]|null} content
 */
export function textOf(content) {
  if (!Array.isArray(content)) return content ?? "";
  return content.filter(({ type }) => type === "text").map(({ text }) => text).join("\n");
}

const IMAGE = /^data:image\/(?:png|jpe?g|gif|webp|bmp);base64,[A-Za-z0-9+/=]+$/;

/**
 * The images of a message's content that the page may show: those that are in the message.
 * @param {string|object[]|null} content
 * @returns {string[]} data URLs
 */
export function imagesOf(content) {
  if (!Array.isArray(content)) return [];
  const urls = content.filter(({ type }) => type === "image_url").map((part) => part.image_url?.url);
  return urls.filter((url) => typeof url === "string" && IMAGE.test(url));
}

/**
 * The content of a user's message.
 * @param {string} text
 * @param {string[]} images data URLs
 */
export function contentOf(text, images) {
  if (!images.length) return text;
  const parts = images.map((url) => ({ type: "image_url", image_url: { url } }));
  return text ? [...parts, { type: "text", text }] : parts;
}

/** Letters of a title. */
const TITLE = 60;

/**
 * A title for a conversation from its first message.
 * @param {string} text
 */
export function titleOf(text) {
  const line = text.split("\n").map((one) => one.trim()).find((one) => /[\p{L}\p{N}]/u.test(one)) ?? "";
  const plain = line.replace(/^[#>\-*\s]+/, "").replace(/[`*_]/g, "").replace(/\s+/g, " ");
  if (plain.length <= TITLE) return plain;
  const cut = plain.slice(0, TITLE).replace(/\s+\S*$/, "");
  return `${cut.replace(/[\ud800-\udbff]$/, "")}\u2026`;
}

/**
 * The model that answers: the chosen one, or what the server takes if none is chosen.
 * @param {object[]|null} list
 * @param {string|null|undefined} chosen
 */
export function modelOf(list, chosen) {
  if (!list?.length) return null;
  const named = list.find(({ id }) => id === chosen);
  const usual = list.find((model) => model.default) ?? list.find(({ status }) => status === "loaded");
  return named ?? usual ?? list[0];
}
