// The settings of sampling: what can be set, within which limits, and the request that they make.

/**
 * @typedef {object} Control a field of the request
 * @property {string} field its name in the API
 * @property {"number"|"switch"|"choice"|"lines"|"biases"} kind
 * @property {number} [min] @property {number} [max] @property {number} [step] of the slider
 * @property {Array<number>} [options] of a choice
 * @property {*} initial what requests have that do not set it
 * @property {*} off the value with which the step changes nothing
 */

const number = (field, min, max, step, initial, off = initial) => ({ field, kind: "number", min, max, step, initial, off });
const flag = (field) => ({ field, kind: "switch", initial: false, off: false });

/** The steps in the order in which they act, each with its controls. */
export const STEPS = [
  { step: "logit_bias", controls: [{ field: "logit_bias", kind: "biases", initial: [], off: [] }] },
  { step: "repetition_penalty", controls: [number("repetition_penalty", 0.5, 2, 0.01, 1), number("repeat_last_n", -1, 512, 1, 64)] },
  { step: "frequency_penalty", controls: [number("frequency_penalty", -2, 2, 0.05, 0)] },
  { step: "presence_penalty", controls: [number("presence_penalty", -2, 2, 0.05, 0)] },
  {
    step: "dry",
    controls: [
      number("dry_multiplier", 0, 5, 0.05, 0), number("dry_base", 1, 4, 0.05, 1.75),
      number("dry_allowed_length", 0, 20, 1, 2), number("dry_penalty_last_n", -1, 4096, 1, -1),
      { field: "dry_sequence_breakers", kind: "lines", initial: ["\n", ":", '"', "*"], off: ["\n", ":", '"', "*"] },
    ],
  },
  { step: "end_tokens", controls: [flag("ignore_eos"), number("min_tokens", 0, 100, 1, 0)] },
  {
    step: "temperature",
    controls: [
      number("temperature", 0, 2, 0.05, 0.7, 1), number("dynatemp_range", 0, 2, 0.05, 0),
      number("dynatemp_exponent", 0, 10, 0.1, 1),
    ],
  },
  { step: "top_n_sigma", controls: [number("top_n_sigma", 0, 10, 0.1, 0)] },
  { step: "top_k", controls: [number("top_k", 0, 200, 1, 0)] },
  { step: "typical_p", controls: [number("typical_p", 0, 1, 0.01, 1)] },
  { step: "top_p", controls: [number("top_p", 0, 1, 0.01, 0.95, 1)] },
  { step: "min_p", controls: [number("min_p", 0, 1, 0.01, 0)] },
  { step: "p_less", controls: [flag("p_less")] },
  { step: "xtc", controls: [number("xtc_probability", 0, 1, 0.01, 0), number("xtc_threshold", 0, 0.5, 0.01, 0.1)] },
  {
    step: "mirostat",
    controls: [
      { field: "mirostat", kind: "choice", options: [0, 1, 2], initial: 0, off: 0 },
      number("mirostat_tau", 0, 20, 0.1, 5), number("mirostat_eta", 0, 1, 0.01, 0.1),
    ],
  },
  { step: "adaptive_p", controls: [number("adaptive_target", -1, 1, 0.01, -1), number("adaptive_decay", 0, 0.99, 0.01, 0.9)] },
];

/** A control that belongs to all steps that truncate. */
export const MIN_KEEP = number("min_keep", 0, 50, 1, 0);
const ALL = [...STEPS.flatMap(({ controls }) => controls), MIN_KEEP];

/** The fields of all controls. */
export const FIELDS = ALL.map(({ field }) => field);

/** The values with which no step changes anything. Pure. */
export function turnedOff() {
  return Object.fromEntries(ALL.filter(({ initial, off }) => !same(initial, off)).map(({ field, off }) => [field, off]));
}

/** The value of a control: the user's, or what requests have without it. */
export function valueOf(settings, { field, initial }) {
  return settings[field] ?? initial;
}

/** Settings with another value; one that requests have anyway is left out. Pure. */
export function changed(settings, control, value) {
  const { [control.field]: _, ...rest } = settings;
  return same(value, control.initial) ? rest : { ...rest, [control.field]: value };
}

function same(one, other) {
  return JSON.stringify(one) === JSON.stringify(other);
}

/** The fields of a request for these settings. Pure. */
export function fieldsOf(settings) {
  const { logit_bias: biases, ...fields } = settings;
  const given = (biases ?? []).filter(({ token }) => token !== "");
  if (!given.length) return fields;
  const bias = Object.fromEntries(given.map(({ token, value, banned }) => [token, banned ? false : value]));
  return { ...fields, logit_bias: bias };
}

/** The request about a state of the page, with the settings in force. Pure. */
export function requestOf({ model, mode, text, system, settings, seed, answer, top }) {
  const prompt = mode === "chat" ? { messages: messagesOf(system, text) } : { prompt: text };
  return {
    ...(model ? { model } : {}),
    ...prompt,
    ...fieldsOf(settings),
    ...(seed === null ? {} : { seed }),
    ...(answer.length ? { continuation: answer.map(({ id }) => id) } : {}),
    top,
  };
}

/** A conversation of one message. */
export function messagesOf(system, text) {
  const first = system ? [{ role: "system", content: system }] : [];
  return [...first, { role: "user", content: text }];
}

/** The control that an error's field belongs to: "logit_bias.5" belongs to "logit_bias". Pure. */
export function fieldOf(param) {
  return param?.split(/[.[]/)[0] ?? null;
}
