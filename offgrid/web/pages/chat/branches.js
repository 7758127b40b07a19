/** Branches of a conversation, as its messages show them. Pure. */

/**
 * The messages that are alternatives to a message, itself among them, the oldest first.
 *
 * An answer that was continued is not an alternative to its own continuation, and one that failed
 * before its first token is none at all.
 * @param {object[]} messages of all branches
 * @param {object} message
 */
export function alternativesTo(messages, message) {
  const siblings = messages.filter(
    ({ parent, role }) => (parent ?? null) === (message.parent ?? null) && role === message.role,
  );
  const continued = new Set(siblings.map(({ data }) => data?.continues).filter(Boolean));
  return siblings.filter((one) => one.id === message.id || (!continued.has(one.id) && !isEmpty(one)));
}

/** Whether a message is an answer that ended before it began. */
function isEmpty({ role, status, content, reasoning, tool_calls: calls }) {
  const isOver = status === "failed" || status === "stopped";
  return role === "assistant" && isOver && !content && !reasoning && !calls?.length;
}

/**
 * For each message of the path: its alternatives. One pass over all messages, because long
 * conversations have many.
 * @param {object[]} messages
 * @param {object[]} path
 * @returns {Map<string, string[]>} ids by the id of the message of the path
 */
export function alternativesOf(messages, path) {
  const byParent = new Map();
  for (const message of messages) {
    const key = `${message.parent ?? ""} ${message.role}`;
    if (!byParent.has(key)) byParent.set(key, []);
    byParent.get(key).push(message);
  }
  const found = path.map((message) => {
    const siblings = byParent.get(`${message.parent ?? ""} ${message.role}`) ?? [message];
    return [message.id, alternativesTo(siblings, message).map(({ id }) => id)];
  });
  return new Map(found);
}

/**
 * The calls of the last answer that have no result yet.
 * @param {object[]} path
 * @returns {{message: object, calls: object[]}|null}
 */
export function openCalls(path) {
  const at = path.findLastIndex(({ role }) => role !== "tool");
  const message = path[at];
  if (message?.role !== "assistant" || !message.tool_calls?.length || message.status === "running") {
    return null;
  }
  const answered = new Set(path.slice(at + 1).map(({ tool_call_id: id }) => id));
  // A result names its call, so a call without an id cannot get one.
  const calls = message.tool_calls.filter(({ id }) => typeof id === "string" && !answered.has(id));
  return calls.length ? { message, calls } : null;
}
