// What the page of models knows: the models, what is loaded, and what was searched on sticks.

import { api } from "../../lib/api.js";
import { useEffect } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { isHere } from "../../lib/owner.js";
import { may } from "../../lib/self.js";
import { Store } from "../../lib/store.js";
import { announce } from "../../parts/live.js";
import { toastError } from "../../parts/toast.js";
import { finished } from "./jobs.js";
import { merged, pathOf } from "./places.js";

const QUIET_MS = 5000;
const BUSY_MS = 700;
const DETAILS_MS = 20_000;
const BUSY = new Set(["loading", "waiting", "unloading"]);

/**
 * {models, others, unusable, loaded, error}: null before the first answer. `others`: the models that
 * only other machines have.
 */
export const known = new Store(null);

/** Whether a model is being loaded or unloaded. */
export function isBusy(model) {
  return BUSY.has(model.status);
}

let detailedAt = 0; // when the details were asked for last

/** Ask the server what is new. */
export async function refresh(signal) {
  try {
    const sees = may("models") || may("stats");
    const [list, loaded] = await Promise.all([
      listed(signal),
      sees ? api.get("v1/loaded", { signal }) : { data: [] },
    ]);
    const here = list.data.filter(isHere);
    tellChanges(known.value?.models ?? [], here);
    known.set({ models: here, others: list.data.filter((model) => !isHere(model)), unusable: list.unusable, loaded: loaded.data, error: null });
  } catch (error) {
    if (error.name === "AbortError" || error.isAway) return;
    known.set({ models: [], others: [], unusable: [], loaded: [], ...known.value, error });
  }
}

/**
 * Return the models. Their details take the server more work than the rest, so they are asked for
 * only now and then, and when something else has changed.
 */
async function listed(signal) {
  const before = known.value && !known.value.error ? [...known.value.models, ...known.value.others] : [];
  if (before.length > 0 && Date.now() - detailedAt < DETAILS_MS) {
    const list = await api.get("v1/models", { signal });
    const data = merged(before, list.data);
    if (data) return { ...list, data };
  }
  detailedAt = Date.now();
  return api.get("v1/models?details=true", { signal });
}

/** Say what has become of models that were being loaded or unloaded. */
function tellChanges(before, after) {
  const old = new Map(before.map((model) => [model.id, model]));
  for (const model of after) {
    const was = old.get(model.id)?.status;
    if (was === undefined || was === model.status || isBusy(model)) continue;
    if (model.status === "failed") announce(t("models.said.failed", { model: model.id }));
    else announce(t(model.status === "loaded" ? "models.said.loaded" : "models.said.unloaded", { model: model.id }));
  }
}

/**
 * Keep what is known up to date while a component is shown: often while a model loads.
 * @param {object|null} who what the key may do; null while that is not known
 */
export function useModels(who) {
  useEffect(() => {
    if (!who) return undefined;
    const ended = new AbortController();
    let timer = null;
    let turn = 0;
    const look = async () => {
      const own = ++turn;
      clearTimeout(timer);
      if (!document.hidden) await refresh(ended.signal);
      if (own !== turn || ended.signal.aborted) return; // a later look goes on
      timer = setTimeout(look, known.value?.models.some(isBusy) ? BUSY_MS : QUIET_MS);
    };
    hurry = look;
    document.addEventListener("visibilitychange", look);
    const end = finished.subscribe(look);
    look();
    return () => {
      end();
      hurry = refresh;
      ended.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", look);
    };
  }, [who]);
}

let hurry = refresh;

/**
 * Let the server do something with a model.
 * @param {string} action the last part of its path, such as "load"
 * @returns {Promise<boolean>} whether it was done; an error is shown
 */
export async function act(id, action, body) {
  try {
    await api.post(`${pathOf(id)}/${action}`, body);
    return true;
  } catch (error) {
    toastError(error);
    return false;
  } finally {
    hurry();
  }
}
