/** The models that can chat, and what they are doing now. */

import { api } from "../../lib/api.js";
import { Store } from "../../lib/store.js";
import { useEffect } from "../../lib/dom.js";

/** Milliseconds between two looks at the models: usually, and while one loads. */
const USUAL_MS = 15_000;
const LOADING_MS = 700;

/** {list, error}: list is null until the server has answered. */
export const models = new Store({ list: null, error: null });

/** Asks the server for its models. */
export async function refreshModels() {
  try {
    const { data } = await api.get("v1/models");
    const list = data.filter(({ kind }) => kind === undefined || kind === "chat" || kind === "base");
    models.set({ list, error: null });
  } catch (error) {
    models.set(({ list }) => ({ list, error }));
  }
}

/**
 * Follows the models while a component is shown.
 * @param {boolean} often whether an answer waits for one
 */
export function useModels(often) {
  useEffect(() => {
    let timer;
    let isOver = false;
    const look = async () => {
      if (!document.hidden) await refreshModels();
      if (!isOver) timer = setTimeout(look, often ? LOADING_MS : USUAL_MS);
    };
    look();
    return () => {
      isOver = true;
      clearTimeout(timer);
    };
  }, [often]);
}
