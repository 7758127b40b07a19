/** When to look for changes: every few seconds while the page is visible, and when it becomes so. */

import { connection } from "../../../lib/connection.js";
import { keyStore } from "../../../lib/key.js";
import { onChange } from "./server.js";

const POLL_MS = 4_000;

/**
 * Call functions when there may be something new.
 * @param {object} calls `look(change)`: there may be something new, with what is known of it (see
 *     `Change` in server.js); `back()`: the server can be reached again; `key()`: another key is used;
 *     `reach(online)`: whether the server can be reached; `every`: milliseconds between two looks
 * @returns {() => void} ends it
 */
export function watch({ look, back, key = back, reach, every = POLL_MS }) {
  let { times } = connection.value;
  const ends = [
    connection.subscribe((now) => {
      reach?.(now.online);
      if (now.times === times) return;
      times = now.times;
      back();
    }),
    onChange(look),
    keyStore.subscribe(() => key()),
  ];
  const timer = setInterval(() => isVisible() && connection.value.online && look({ id: null }), every);
  timer.unref?.(); // a test must be able to end
  ends.push(() => clearInterval(timer));
  if (typeof document !== "undefined") {
    const show = () => isVisible() && look({ id: null });
    document.addEventListener("visibilitychange", show);
    ends.push(() => document.removeEventListener("visibilitychange", show));
  }
  return () => ends.forEach((end) => end());
}

function isVisible() {
  return typeof document === "undefined" || document.visibilityState === "visible";
}
