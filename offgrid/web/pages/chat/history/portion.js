/** How much of a history one request may hold. Pure. */

/**
 * The most of one request. The server takes 8 MiB, 150,000 texts and names of fields, and 40,000 lists
 * and objects; an answer with the probabilities of its tokens has up to 28,000 of these.
 * @typedef {{bytes: number, messages: number, texts: number, groups: number}} Size
 * @type {Size}
 */
export const MOST = { bytes: 3 << 20, messages: 1_000, texts: 100_000, groups: 35_000 };

/** @type {Size} */
const NOTHING = { bytes: 0, messages: 0, texts: 0, groups: 0 };

const encoder = new TextEncoder();

/**
 * What messages, or a conversation with its messages, take of a request.
 * @returns {Size}
 */
export function sizeOf(value, messages = 1) {
  const size = { ...NOTHING, bytes: encoder.encode(JSON.stringify(value)).length, messages };
  count(value, size);
  return size;
}

function count(value, size) {
  if (typeof value === "string") size.texts += 1;
  if (!value || typeof value !== "object") return;
  size.groups += 1;
  if (!Array.isArray(value)) size.texts += Object.keys(value).length;
  for (const inner of Object.values(value)) count(inner, size);
}

/** The sum of two sizes. */
export function plus(one, other) {
  return Object.fromEntries(Object.keys(NOTHING).map((name) => [name, one[name] + other[name]]));
}

/** Whether a size is at most another one. */
export function fits(size, most = MOST) {
  return Object.keys(NOTHING).every((name) => size[name] <= most[name]);
}

/**
 * The first messages of a list that fit into one request, at least one of them.
 * @param {import("./types.js").Message[]} messages
 * @param {Partial<Size>} [most] what differs from `MOST`
 */
export function portion(messages, most = {}) {
  let size = NOTHING;
  let last = 0;
  for (const message of messages) {
    size = plus(size, sizeOf(message));
    if (last > 0 && !fits(size, { ...MOST, ...most })) break;
    last += 1;
  }
  return messages.slice(0, last);
}
