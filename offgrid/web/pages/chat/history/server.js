/** What the modules of the history share: requests to the server, ids, and news of changes. */

import { api } from "../../../lib/api.js";

export const PATH = "v1/history";

/** The path of a conversation. */
export function pathOf(id) {
  return `${PATH}/${encodeURIComponent(id)}`;
}

/** An id for a message or a conversation. */
export function newId(prefix = "msg") {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `${prefix}_${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/** The time in seconds since 1970. */
export function seconds() {
  return Math.floor(Date.now() / 1000);
}

/** The description of a conversation that the server does not have yet. */
export function newInfo(id) {
  const now = seconds();
  return { id, object: "history.conversation", created_at: now, updated_at: now, revision: 0, preview: "" };
}

/** A title as the server takes it: one line of at most 500 characters. */
export function oneLine(text) {
  // eslint-disable-next-line no-control-regex
  const line = text.replace(/[\s\u0000-\u001f\u007f]+/g, " ").trim();
  return Array.from(line).slice(0, 500).join("");
}

/** Whether the server stores conversations for this user. Throws if it cannot be asked. */
export async function historyEnabled() {
  try {
    await api.get(`${PATH}?limit=1`);
    return true;
  } catch (error) {
    if (isOff(error)) return false;
    throw error;
  }
}

/** Whether an error means that the server stores nothing: the setting, or the key's scopes. */
export function isOff({ code }) {
  return code === "history_off" || code === "missing_scope";
}

/** Whether an error is about the key: with another one the same request may succeed. */
export function isRefusal(error) {
  return error?.status === 401 || error?.status === 403;
}

/** Whether the same request may succeed later. */
export function isTemporary({ isAway, status }) {
  return isAway || status === 429 || (status >= 500 && status !== 507);
}

/** Whether an error is about the messages of a request: it may be only one of them, or their number. */
export function isTooMuch({ status }) {
  return status === 400 || status === 413;
}

/** Return a conversation with all messages that changed after a revision. */
export async function readConversation(id, since) {
  const messages = [];
  for (;;) {
    const part = await api.get(`${pathOf(id)}?since=${since}`, { sameKey: true });
    messages.push(...part.messages);
    if (!part.has_more) return { ...part, messages };
    since = Math.max(...part.messages.map(({ revision }) => revision));
  }
}

// A test must be able to end: outside of browsers, a channel keeps the program running.
const channel = typeof BroadcastChannel === "function" ? new BroadcastChannel("offgrid.history") : null;
channel?.unref?.();
const listeners = new Set();

/**
 * A change of a conversation through this browser.
 * @typedef {object} Change
 * @property {string|null} id null if several may have changed
 * @property {boolean} [isDeleted]
 * @property {object} [by] who knows it already; of this tab
 */

/**
 * Tell this tab and the others of this browser.
 * @param {Change} change
 */
export function tellChange({ by, ...change }) {
  channel?.postMessage(change);
  for (const tell of [...listeners]) tell({ by, ...change });
}

/**
 * Call a function with each change. Returns the function that ends it.
 * @param {(change: Change) => void} tell
 */
export function onChange(tell) {
  const hear = ({ data }) => tell(data);
  listeners.add(tell);
  channel?.addEventListener("message", hear);
  return () => {
    listeners.delete(tell);
    channel?.removeEventListener("message", hear);
  };
}
