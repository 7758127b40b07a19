// Servers of the tests: tests/lib/page_server.py starts and changes them.
import assert from "node:assert/strict";

async function ask(path, body) {
  const control = process.env.OFFGRID_CONTROL;
  assert.ok(control, "OFFGRID_CONTROL is not set; python tests/lib/page_server.py prints it");
  const response = await fetch(control + path, { method: "POST", body: JSON.stringify(body) });
  const told = await response.json();
  assert.equal(response.status, 200, told.error);
  return told;
}

/**
 * A new server in new folders.
 * @param {{keys?: boolean, models?: boolean, model?: string|null, flags?: string[], environ?: object,
 *     peers?: string}} options `models`: whether it has those of tests/lib/page_models.py; `model`: its
 *     default model; `peers`: its name among other machines, if it talks to any
 */
export async function startServer(options = {}) {
  const about = await ask("/start", options);
  const { id } = about;
  address ??= about.url;
  return {
    ...about,
    stop: () => ask("/stop", { id }),
    restart: () => ask("/restart", { id }),
    end: () => ask("/end", { id }),
    createKey: (name, scopes = []) => ask("/key", { id, name, scopes }),
    revokeKey: (name) => ask("/revoke", { id, name }),
    addToStick: (name, what) => ask("/stick", { id, name, ...what }),
    api: (method, path, body) => callApi(about, method, path, body),
  };
}

async function callApi(about, method, path, body) {
  const headers = { "Content-Type": "application/json" };
  if (about.secret) headers.Authorization = `Bearer ${about.secret}`;
  const response = await fetch(about.url + path, {
    method, headers, body: body === undefined ? undefined : JSON.stringify(body),
  });
  const told = await response.text();
  assert.ok(response.ok, `${method} ${path}: ${response.status} ${told}`);
  return told ? JSON.parse(told) : null;
}

const strings = {};
let address; // of the first server, which has the page's words

/**
 * A text of the page, or a pattern of it where it has values.
 * @param {string} name such as "chat.send"
 * @returns {Promise<string|RegExp>}
 */
export async function text(name, language = "en") {
  strings[language] ??= await (await fetch(`${address}/ui/strings/${language}.json`)).json();
  const found = name.split(".").reduce((table, key) => table?.[key], strings[language]);
  assert.ok(found, `${language}.json has no ${name}`);
  if (typeof found !== "string") return patternOf(Object.values(found).join("|"));
  return found.includes("{") ? patternOf(found) : found;
}

function patternOf(found) {
  const escaped = found.replace(/[.*+?^$()[\]\\]/g, "\\$&").replace(/\{[^}]*\}/g, ".+");
  return new RegExp(`^(${escaped})$`);
}
