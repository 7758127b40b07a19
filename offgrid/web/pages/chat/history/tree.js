/**
 * The messages of a conversation as a tree. Pure functions; a list of messages is in the order in
 * which they came, so that a parent comes before its children.
 *
 * @typedef {import("./types.js").Message} Message
 */

/**
 * The messages from the first one to a given one; empty for null and for unknown ids.
 * @param {Message[]} messages
 * @param {string|null} id
 */
export function pathTo(messages, id) {
  const known = byId(messages);
  const path = [];
  for (let at = known.get(id); at; at = known.get(at.parent)) path.push(at);
  return path.reverse();
}

/** The messages by their ids. */
export function byId(messages) {
  return new Map(messages.map((message) => [message.id, message]));
}

/**
 * The last message of the newest branch below a message: itself, if none follows it.
 * @returns {string|null} null for an unknown id
 */
export function leafOf(messages, id) {
  const known = byId(messages);
  if (!known.has(id)) return null;
  const newest = new Map(); // the later child replaces the earlier one
  for (const message of messages) newest.set(message.parent ?? null, message.id);
  let leaf = id;
  while (newest.has(leaf)) leaf = newest.get(leaf);
  return leaf;
}

/** Whether a message is in the branch that ends with another one. */
export function isOnPath(messages, id, end) {
  return pathTo(messages, end).some((message) => message.id === id);
}

/**
 * Which of two versions of a message goes further. The server decides in the same way: a running
 * message gives way to a longer or finished one, and a finished one to none.
 * @param {Message|undefined} old
 * @param {Message} next
 */
export function further(old, next) {
  if (!old) return next;
  if (!isRunning(old)) return isRunning(next) ? old : next;
  if (!isRunning(next)) return next;
  return sizeOf(next) >= sizeOf(old) ? next : old;
}

export function isRunning(message) {
  return message.status === "running";
}

function sizeOf({ content = null, reasoning = null, tool_calls = null }) {
  return JSON.stringify([content, reasoning, tool_calls]).length;
}

/**
 * Add messages to a list, or replace older versions of them. Returns the same list if nothing
 * changes.
 * @param {Message[]} messages
 * @param {Message[]} incoming
 * @param {(old: Message|undefined, next: Message) => Message} [choose] chooses between two versions
 */
export function withMessages(messages, incoming, choose = (_, next) => next) {
  const places = new Map(messages.map(({ id }, place) => [id, place]));
  const result = [...messages];
  let isChanged = false;
  for (const message of incoming) {
    const place = places.get(message.id);
    if (place === undefined) {
      places.set(message.id, result.length);
      result.push(message);
      isChanged = true;
    } else {
      const chosen = choose(result[place], message);
      isChanged ||= chosen !== result[place];
      result[place] = chosen;
    }
  }
  return isChanged ? result : messages;
}

/**
 * What is to be done with messages that the server has in another finished version: those of this
 * device get other ids, and so become branches. Messages after them follow them there.
 * @param {Message[]} unsent of this device, parents first
 * @param {Message[]} stored of the server
 * @param {() => string} newId
 * @returns {{unsent: Message[], renamed: Map<string, string>}} what is still to be sent, and the new
 *     ids by the old ones
 */
export function branches(unsent, stored, newId) {
  const theirs = byId(stored);
  const renamed = new Map();
  const left = [];
  for (const own of unsent) {
    const their = theirs.get(own.id);
    const moved = renamed.has(own.parent) ? { ...own, parent: renamed.get(own.parent) } : own;
    if (!their || (isRunning(their) && moved.parent === (their.parent ?? null))) {
      left.push(moved);
    } else if (!isRunning(own) && !isSame(own, their)) {
      renamed.set(own.id, newId());
      left.push({ ...moved, id: renamed.get(own.id) });
    }
    // Everything else is there already, or was overtaken.
  }
  return { unsent: left, renamed };
}

/** Whether two versions of a message say the same, whatever the order of their fields. */
function isSame(own, their) {
  const names = ["parent", "role", "content", "reasoning", "tool_calls", "tool_call_id", "status", "model", "data"];
  return names.every((name) => canonical(own[name]) === canonical(their[name]));
}

function canonical(value) {
  return JSON.stringify(value ?? null, (_, inner) =>
    inner && typeof inner === "object" && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner);
}
