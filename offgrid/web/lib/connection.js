// Whether the server can be reached. While it cannot, this module asks again until it answers.

import { Store } from "./store.js";

const FIRST_MS = 500;
const MOST_MS = 5000;

/** `online`: whether the last request reached the server; `times`: how often it came back. */
export const connection = new Store({ online: true, times: 0 });

let timer = null;

/** Say that a request did not reach the server. */
export function lost() {
  if (!connection.value.online) return;
  connection.patch({ online: false });
  look(FIRST_MS);
}

/** Say that a request reached it. */
export function regained() {
  if (connection.value.online) return;
  clearTimeout(timer);
  connection.set(({ times }) => ({ online: true, times: times + 1 }));
}

/** Ask now; the user pressed a button, or the network came back. */
export function lookNow() {
  if (!connection.value.online) look(0);
}

function look(wait) {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    try {
      const url = new URL("../../health", import.meta.url);
      const answer = await fetch(url, { cache: "no-store", credentials: "omit" });
      // A proxy answers for a server that is away.
      if (answer.status < 500 || answer.status === 503) return regained();
    } catch {
      // Still away.
    }
    if (!connection.value.online) look(Math.min(Math.max(wait, FIRST_MS) * 1.5, MOST_MS));
  }, wait);
}

if (typeof addEventListener === "function") {
  addEventListener("online", lookNow);
}
