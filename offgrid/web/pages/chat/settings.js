/** What the chat remembers in this browser: the last settings, presets, drafts, and the view. */

import { keyMark } from "../../lib/key.js";
import { recallLarge, rememberLarge } from "../../lib/large.js";
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

/** Name of a draft, which says whose it is -> its images as they were remembered last. */
const rememberedImages = new Map();

function draftName(id) {
  return `chat.draft.${keyMark()}.${id ?? "new"}`;
}

/**
 * The message that the user has begun to write in a conversation; `recallImages` has its images.
 * @param {string|null} id
 * @returns {{text: string, images: string[]}}
 */
export function recallDraft(id) {
  const name = draftName(id);
  const images = [];
  rememberedImages.set(name, images); // typing a letter does not take away those that are still read
  return { text: recall(name)?.text ?? "", images };
}

/**
 * The images of a draft.
 * @param {string|null} id
 * @returns {Promise<string[]>}
 */
export async function recallImages(id) {
  return await recallLarge(draftName(id)) ?? [];
}

/** Remembers a draft; an empty one is forgotten. */
export function rememberDraft(id, { text, images }) {
  const name = draftName(id);
  remember(name, text ? { text } : null);
  if (rememberedImages.get(name) === images) return; // only the text has changed
  rememberedImages.set(name, images);
  rememberLarge(name, images.length ? images : null);
}
