// A page's style sheet, loaded with the page.

import { useEffect, useState } from "../lib/dom.js";

const loaded = new Map();

/** Load a style sheet once. Returns whether it is there, so that nothing is shown without it. */
export function useStyle(path) {
  const [ready, setReady] = useState(loaded.get(path) === true);
  useEffect(() => {
    if (loaded.get(path) === true) return;
    load(path).then(() => setReady(true));
  }, [path]);
  return ready;
}

function load(path) {
  const waiting = loaded.get(path);
  if (waiting) return waiting;
  const link = Object.assign(document.createElement("link"), { rel: "stylesheet", href: path });
  const done = new Promise((resolve) => {
    // Without its style sheet a page is plain, but it works.
    link.onload = link.onerror = () => {
      loaded.set(path, true);
      resolve();
    };
  });
  loaded.set(path, done);
  document.head.append(link);
  return done;
}
