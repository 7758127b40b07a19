/** What is known about the speed of an answer, and what the page waits for before it begins. */

import { html } from "../../lib/dom.js";
import { duration, number, t } from "../../lib/i18n.js";
import { useStore } from "../../lib/store.js";
import { Progress } from "../../parts/progress.js";
import { models } from "./models.js";

/** Figures of an answer: tokens, speed, prompt, cache. */
export function Stats({ timings, usage, model, isRunning }) {
  const parts = timings ? figures(timings, usage) : [];
  if (!parts.length && !model) return null;
  return html`<p class="stats" aria-hidden=${isRunning ? "true" : undefined}>
    ${model && html`<bdi class="stats-model">${model}</bdi>`}
    ${parts.map((part) => html`<span key=${part}>${part}</span>`)}
  </p>`;
}

function figures(timings, usage) {
  const { predicted_n: tokens, predicted_per_second: speed, prompt_n: prompt, cache_n: cached } = timings;
  const count = usage?.completion_tokens ?? tokens;
  return [
    count > 0 && t("chat.tokens", { count }),
    speed > 0 && t("chat.speed", { speed: number(speed, { maximumFractionDigits: speed < 10 ? 1 : 0 }) }),
    prompt + cached > 0 && t("chat.prompt_tokens", { count: prompt + cached }),
    cached > 0 && t("chat.cached_tokens", { count: cached }),
  ].filter(Boolean);
}

/** What happens before the first token: a model loads, the request waits, the prompt is read. */
export function Waiting({ progress, queue }) {
  const { list } = useStore(models);
  const loading = list?.find(({ status }) => status === "loading" || status === "waiting");
  if (progress) return html`<${Prefill} progress=${progress} />`;
  if (!loading) return html`<p class="waiting"><span class="spinner" aria-hidden="true"></span>${queue ? placeText(queue) : t("chat.waiting")}</p>`;
  const label = t("chat.loading", { model: loading.id });
  return html`<div class="waiting"><span>${label}</span><${Progress} value=${loading.progress ?? null} label=${label} /></div>`;
}

function placeText({ place, count, seconds }) {
  const values = { place, count, time: seconds === undefined ? "" : duration(seconds) };
  return t(seconds === undefined ? "chat.queued" : "chat.queued_for", values);
}

function Prefill({ progress: { total, processed, time_ms: time } }) {
  const label = t("chat.prefill");
  const text = t("chat.prefill_tokens", { done: processed, total });
  const isLong = time > 2_000 && processed > 0 && processed < total;
  const left = isLong ? duration(((total - processed) / processed) * (time / 1000)) : "";
  return html`<div class="waiting"><span>${label}</span>
    <${Progress} value=${total ? processed / total : null} label=${label} text=${[text, left].filter(Boolean).join(" \u00b7 ")} />
  </div>`;
}
