// Which page is shown: the part of the address after "#".

import { Store } from "./store.js";

/** {page, id, query}: "#/chat/abc?x=1" is page "chat", id "abc" and x=1. */
export const route = new Store(parseRoute(typeof location === "undefined" ? "" : location.hash));

/** Read a route. Pure. */
export function parseRoute(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [page = "", ...rest] = path.split("/");
  return { page: page || "chat", id: rest.length ? decode(rest.join("/")) : null, query: new URLSearchParams(query) };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The address of a page, for links. */
export function href(page, id = null, query = {}) {
  const text = new URLSearchParams(query).toString();
  return `#/${page}${id === null ? "" : `/${encodeURIComponent(id)}`}${text ? `?${text}` : ""}`;
}

/** Show a page; `replace`: without an entry in the browser's history. */
export function navigate(page, id = null, { query = {}, replace = false } = {}) {
  const address = href(page, id, query);
  if (replace) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  route.set(parseRoute(location.hash));
}

if (typeof addEventListener === "function") {
  const look = () => route.set(parseRoute(location.hash));
  addEventListener("hashchange", look);
  addEventListener("popstate", look);
}
