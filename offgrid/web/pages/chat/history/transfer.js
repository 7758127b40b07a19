/** Files of conversations: export, and import in as many requests as the server's limits need. */

import { api, save, send } from "../../../lib/api.js";
import { fits, plus, portion, sizeOf } from "./portion.js";
import { PATH, pathOf, tellChange } from "./server.js";

/** Give the user a conversation as a file; `format`: "json" or "markdown". */
export async function exportConversation({ id, title }, format) {
  const file = await api.blob(`${pathOf(id)}/export?format=${format}`);
  save(file, `${fileName(title) || id}.${format === "json" ? "json" : "md"}`);
}

/** Give the user all conversations as a file. */
export async function exportAll() {
  save(await api.blob(`${PATH}/export`), "history.json");
}

/** A title as the name of a file, without what file systems refuse. Pure. */
export function fileName(title) {
  return title.replace(/[^\p{L}\p{M}\p{N}_-]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 60);
}

/**
 * Store the conversations of an exported file.
 * @param {Blob & {name?: string}} file
 * @returns {Promise<{created: number, changed: number, unchanged: number, messages: number}>}
 * @throws {ApiError|SyntaxError} the file is not an export; `SyntaxError`: it is not JSON
 */
export async function importFile(file) {
  const text = await file.text();
  const isJson = /^\ufeff?\s*\{/.test(text);
  const results = isJson ? await importJson(JSON.parse(text.replace(/^\ufeff/, ""))) : [await importMarkdown(text)];
  const total = { created: 0, changed: 0, unchanged: 0, messages: 0 };
  for (const result of results) for (const name of Object.keys(total)) total[name] += result[name];
  tellChange({ id: null });
  return total;
}

async function importMarkdown(text) {
  const body = new Blob([text], { type: "text/markdown" });
  const headers = { "Content-Type": "text/markdown" };
  return (await send("POST", `${PATH}/import`, { body, headers })).json();
}

async function importJson(file) {
  const results = [];
  for (const { body, heads } of parcels(file)) {
    results.push(await api.post(`${PATH}/import`, body));
    for (const [id, head] of heads) await api.post(pathOf(id), { head });
  }
  return results;
}

/**
 * The requests that import a file. A file within the limits is one request, which stores all of it
 * or nothing. A conversation beyond the limits is divided: its parts are added to each other. Pure.
 * @param {object} file
 * @returns {{body: object, heads: [string, string][]}[]} bodies, and heads to set afterwards
 */
export function parcels(file) {
  const { conversations, ...rest } = file;
  if (!Array.isArray(conversations)) return [{ body: file, heads: [] }]; // the server says what is wrong
  const found = [{ body: { ...rest, conversations: [] }, heads: [] }];
  let size = sizeOf(rest, 0);
  for (const conversation of conversations) {
    for (const piece of pieces(conversation)) {
      const more = sizeOf(piece.part, piece.part?.messages?.length ?? 0);
      const isFull = !fits(plus(size, more));
      if (isFull && found.at(-1).body.conversations.length) {
        found.push({ body: { ...rest, conversations: [] }, heads: [] });
        size = sizeOf(rest, 0);
      }
      size = plus(size, more);
      found.at(-1).body.conversations.push(piece.part);
      if (piece.head) found.at(-1).heads.push([conversation.id, piece.head]);
    }
  }
  return found;
}

/** The parts of one conversation; only the last one knows the head. */
function* pieces(conversation) {
  let rest = conversation?.messages;
  if (!Array.isArray(rest) || portion(rest).length === rest.length) {
    yield { part: conversation };
    return;
  }
  const { head, messages, ...fields } = conversation;
  while (rest.length) {
    const part = portion(rest);
    rest = rest.slice(part.length);
    yield { part: { ...fields, messages: part }, head: rest.length ? null : head };
  }
}
