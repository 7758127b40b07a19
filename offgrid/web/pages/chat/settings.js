/** What the chat remembers in this browser: the last settings, presets, drafts, and the view. */

import { onRemembered, recall, remember } from "../../lib/local.js";
import { Store } from "../../lib/store.js";

/** Whether answers are asked for with probabilities, and coloured by them. */
export const probabilities = new Store(recall("chat.probabilities", false));

/** Turns the colours on or off, also after a reload. */
export function setProbabilities(on) {
  remember("chat.probabilities", on || null);
  probabilities.set(on);
}

/** The settings of the next new conversation. */
export const lastSettings = new Store(recall("chat.settings", {}));

/** @param {import("./request.js").ChatSettings} settings */
export function rememberSettings(settings) {
  // The system prompt and the tools belong to a conversation or a preset.
  const { model, sampling, effort } = settings;
  const kept = { model, sampling, effort };
  remember("chat.settings", kept);
  lastSettings.set(kept);
}

/** Named settings: {name, system, sampling, effort, tools, extra}. */
export const presets = new Store(recall("chat.presets", []));
onRemembered("chat.presets", (value) => presets.set(value ?? []));

/** Adds a preset, or replaces the one with its name. */
export function savePreset(name, { system, sampling, effort, tools, extra }) {
  const others = presets.value.filter((preset) => preset.name !== name);
  const all = [...others, { name, system, sampling, effort, tools, extra }];
  all.sort((one, other) => one.name.localeCompare(other.name));
  keepPresets(all);
}

/** Removes a preset. */
export function removePreset(name) {
  keepPresets(presets.value.filter((preset) => preset.name !== name));
}

function keepPresets(all) {
  remember("chat.presets", all.length ? all : null);
  presets.set(all);
}

/** Characters of images in a draft that are remembered: browsers store a few million. */
const MAX_DRAFT_IMAGES = 1_000_000;

/**
 * The message that the user has begun to write in a conversation.
 * @param {string|null} id
 * @returns {{text: string, images: string[]}}
 */
export function recallDraft(id) {
  const draft = recall(`chat.draft.${id ?? "new"}`);
  return { text: draft?.text ?? "", images: draft?.images ?? [] };
}

/** Remembers a draft; an empty one is forgotten. */
export function rememberDraft(id, { text, images }) {
  const size = images.reduce((sum, image) => sum + image.length, 0);
  const kept = size > MAX_DRAFT_IMAGES ? [] : images;
  remember(`chat.draft.${id ?? "new"}`, text || kept.length ? { text, images: kept } : null);
}
