/** Opens the sampling lab at a token of an answer. */

import { api } from "../../lib/api.js";
import { toastError } from "../../parts/toast.js";
import { showInLab } from "../lab/handover.js";
import { chatRequest } from "./request.js";

/**
 * Shows the lab with the prompt of an answer, as the model's template writes it, and the text of the
 * answer before the token. Reasoning is not part of it: how the model marks it is not known here.
 * @param {object[]} path messages before the answer
 * @param {object} message the answer
 * @param {import("./request.js").ChatSettings} settings
 * @param {import("./answer.js").Token[]} tokens of the answer
 * @param {number} index
 */
export async function openLab(path, message, settings, tokens, index) {
  const { messages, tools, reasoning_effort: effort } = chatRequest(path, settings);
  const model = message.model ?? settings.model;
  const body = { model, messages, ...(tools && { tools }), ...(effort && { reasoning_effort: effort }) };
  try {
    const { prompt } = await api.post("apply-template", body);
    const before = tokens.slice(0, index).map(({ text }) => text).join("");
    showInLab({ model, text: prompt + before, sampling: settings.sampling ?? {} });
  } catch (error) {
    toastError(error);
  }
}
