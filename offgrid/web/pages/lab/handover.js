// How other pages open the lab with a text of theirs.

import { recall, remember } from "../../lib/local.js";
import { navigate } from "../../lib/router.js";
import { FIELDS } from "./settings.js";

/**
 * What the lab shows of a text that another page hands over. Pure.
 * @param {object} handed `model`: an id; `text`: the prompt, control tokens written out; `sampling`:
 *     parameters of a request, those of which the lab has a control count
 */
export function stateOf({ model, text, sampling }) {
  const known = Object.entries(sampling).filter(([field]) => FIELDS.includes(field));
  return {
    model, mode: "text", text, system: "", settings: Object.fromEntries(known),
    seed: sampling.seed ?? null, answer: [], branches: [],
  };
}

/** Open the lab with a text; see `stateOf`. */
export function showInLab(handed) {
  remember("lab", { ...recall("lab", {}), ...stateOf(handed) });
  navigate("lab");
}
