// Calls of the server's API. Every other module asks the server through this one.

import { lost, regained } from "./connection.js";
import { askForKey, declined, keyStore } from "./key.js";
import { events } from "./sse.js";

/** The server's address: the page is at ROOT/ui, also after a proxy with a path. */
export const ROOT = new URL("../../", import.meta.url);

/** An answer that is an error. `status` is 0 if the server could not be reached. */
export class ApiError extends Error {
  constructor(status, { message, code = null, param = null } = {}, retryAfter = null) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.param = param;
    this.retryAfter = retryAfter;
  }

  get isAway() {
    return this.status === 0;
  }
}

/**
 * Send a request and return its response, whose status says success.
 * @param {string} method
 * @param {string} path without a slash at its beginning or with one
 * @param {object} [options] `body`: a value for JSON, or a Blob; `signal`; `headers`; `keepalive`;
 *     `quiet`: a missing key is an error, and the user is not asked for one; `sameKey`: it is for the key
 *     in use only, and fails if that is refused, also if the user then gives another one
 * @throws {ApiError} the server refuses or is away
 * @throws {DOMException} `AbortError`, if the signal says so
 */
export async function send(method, path, options = {}) {
  for (;;) {
    const key = keyStore.value;
    const response = await reach(method, path, key, options);
    if (response.ok) return response;
    const error = await refusal(response);
    if (response.status === 401 && !options.quiet && await hasOtherKey(key, method, error) && !options.sameKey) continue;
    throw error;
  }
}

/** Whether there is another key than the one that was refused; the user is asked for it if need be. */
async function hasOtherKey(key, method, error) {
  // Another part of the page may have asked for it in the meantime.
  if (keyStore.value !== key) return true;
  // What the page looks up every few seconds does not repeat a question that the user has closed.
  if (method === "GET" && declined.value) return false;
  return askForKey(error);
}

/** A key as a header can have it. A key with other letters is wrong, which the server says. */
function headerOf(key) {
  return `Bearer ${key.replace(/[^\x21-\x7e]/g, "?")}`;
}

async function reach(method, path, key, { body, signal, headers = {}, keepalive = false }) {
  const isJson = body !== undefined && !(body instanceof Blob);
  try {
    const response = await fetch(new URL(path.replace(/^\//, ""), ROOT), {
      method,
      headers: {
        ...(isJson ? { "Content-Type": "application/json" } : {}),
        ...(key ? { Authorization: headerOf(key) } : {}),
        ...headers,
      },
      body: isJson ? JSON.stringify(body) : body,
      signal,
      keepalive,
      credentials: "omit",
      cache: "no-store",
      redirect: "error",
    });
    regained();
    return response;
  } catch (error) {
    if (signal?.aborted) throw error;
    lost();
    throw new ApiError(0, { message: error.message, code: "away" });
  }
}

async function refusal(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // A proxy answered with a page.
  }
  const wait = Number(response.headers.get("Retry-After"));
  return new ApiError(
    response.status,
    { ...error, message: error.message ?? `${response.status} ${response.statusText}` },
    Number.isFinite(wait) && wait > 0 ? wait : null,
  );
}

/** The calls that return JSON, events or a file. */
export const api = {
  get: async (path, options) => (await send("GET", path, options)).json(),
  post: async (path, body = {}, options = {}) =>
    (await send("POST", path, { ...options, body })).json(),
  delete: async (path, options) => {
    const text = await (await send("DELETE", path, options)).text();
    return text ? JSON.parse(text) : null;
  },
  blob: async (path, options) => (await send("GET", path, options)).blob(),

  /**
   * Yield the events of an answer as {event, data}, data being parsed JSON.
   * @param {string} path
   * @param {object|undefined} body a request with POST; undefined for GET
   * @param {object} [options] as of `send`; `onComment`: receives the comments of the stream
   * @throws {ApiError} also for an error inside the stream
   */
  async *stream(path, body, options = {}) {
    const method = body === undefined ? "GET" : "POST";
    const headers = { Accept: "text/event-stream", ...options.headers };
    const response = await send(method, path, { ...options, body, headers });
    try {
      for await (const { event, data } of events(response.body)) {
        if (event === "comment") {
          options.onComment?.(data);
          continue;
        }
        if (data === "[DONE]") return;
        const value = JSON.parse(data);
        if (value.error && (event === "error" || event === "message")) {
          throw new ApiError(response.status, value.error);
        }
        yield { event, data: value };
      }
    } catch (error) {
      if (error instanceof ApiError || options.signal?.aborted) throw error;
      lost();
      throw new ApiError(0, { message: error.message, code: "away" });
    }
  },
};

/** Give the user a file to save. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
