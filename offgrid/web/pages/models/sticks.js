// What is known of sticks and cards: which are there, and which models are on them.

import { api } from "../../lib/api.js";
import { useEffect } from "../../lib/dom.js";
import { Store } from "../../lib/store.js";
import { finished, follow } from "./jobs.js";

const LOOK_MS = 8000;

/** {media, found, skipped, complete, roots, searching, error}; `media` is null before the first answer. */
export const sticks = new Store({
  media: null, found: [], skipped: [], roots: [], complete: true, searching: false, error: null,
});

let failed = null; // The last look's error, which a look that succeeds takes back.

/** Look whether a stick was put in or pulled out, and search the sticks if so. */
async function look(signal) {
  try {
    const listed = await api.get("v1/export", { signal });
    if (listed.running) follow("export", listed.running);
    const changed = paths(listed.data) !== paths(sticks.value.media ?? []) || sticks.value.media === null;
    sticks.patch({ media: listed.data, ...(sticks.value.error === failed && { error: null }) });
    if (changed) await search(signal);
  } catch (error) {
    if (error.name === "AbortError" || error.isAway) return;
    failed = error;
    sticks.patch({ error });
  }
}

function paths(media) {
  return media.map(({ path }) => path).join("\n");
}

/** Search the sticks for models. */
export async function search(signal) {
  if (sticks.value.searching) return;
  sticks.patch({ searching: true, error: null });
  try {
    const { data, skipped, media, roots, complete, running } = await api.get("v1/import", { signal });
    sticks.patch({ found: data, skipped, media, roots, complete });
    if (running) follow("import", running);
  } catch (error) {
    if (error.name !== "AbortError" && !error.isAway) sticks.patch({ error });
  } finally {
    sticks.patch({ searching: false });
  }
}

/** Keep what is known of sticks up to date while a component is shown. */
export function useSticks() {
  useEffect(() => {
    const ended = new AbortController();
    let timer = null;
    const again = async () => {
      if (!document.hidden) await look(ended.signal);
      if (!ended.signal.aborted) timer = setTimeout(again, LOOK_MS);
    };
    again();
    const end = finished.subscribe(() => search(ended.signal));
    return () => {
      end();
      ended.abort();
      clearTimeout(timer);
    };
  }, []);
}
