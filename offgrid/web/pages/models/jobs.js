// Imports and exports: begun here, followed until they end, also while other pages are shown.

import { api } from "../../lib/api.js";
import { connection } from "../../lib/connection.js";
import { percent, t } from "../../lib/i18n.js";
import { Store } from "../../lib/store.js";
import { announce } from "../../parts/live.js";
import { toast, toastError } from "../../parts/toast.js";
import { shareOf } from "./places.js";

const PAUSE_MS = 1000;
const SPOKEN = 0.25; // Share of a transfer after which screen readers hear how far it is.

/** kind -> the object of the API, or null. */
export const jobs = new Store({ import: null, export: null });

/** How often a transfer has ended: then files have changed. */
export const finished = new Store(0);

const followed = new Set();

/**
 * Begin a transfer. It goes on when this page is closed.
 * @param {"import"|"export"} kind
 * @throws {ApiError}
 */
export async function start(kind, body) {
  const job = await api.post(`v1/${kind}`, { ...body, background: true });
  announce(t(`models.transfer.began.${kind}`));
  follow(kind, job.id);
}

/** Begin a transfer; an error is shown. */
export function begin(kind, body) {
  return start(kind, body).catch(toastError);
}

/** Follow a transfer to its end. Calling it twice follows once. */
export async function follow(kind, id) {
  if (followed.has(id)) return;
  followed.add(id);
  let spoken = 0;
  while (followed.has(id)) {
    try {
      for await (const { data } of api.stream(`v1/${kind}/${id}?stream=true`)) spoken = take(kind, data, spoken);
    } catch (error) {
      if (error.status === 404) forget(kind, id); // the server was started again
      else if (error.status >= 400 && error.status < 500) {
        followed.delete(id); // the key may not do this any more
        toastError(error);
      }
    }
    if (jobs.value[kind]?.id === id && jobs.value[kind].status !== "in_progress") followed.delete(id);
    if (followed.has(id)) await comeback();
  }
}

/** Wait until the server can be reached again. */
async function comeback() {
  await new Promise((resolve) => { setTimeout(resolve, PAUSE_MS); });
  if (connection.value.online) return;
  await new Promise((resolve) => {
    const end = connection.subscribe(({ online }) => {
      if (!online) return;
      end();
      resolve();
    });
  });
}

/** Take an event; return the share that was spoken last. */
function take(kind, event, spoken) {
  const job = jobs.value[kind];
  const what = event.type.slice(kind.length + 1);
  if (!job && ["progress", "file"].includes(what)) return spoken; // it was put away
  if (what === "progress") {
    jobs.patch({ [kind]: { ...job, progress: event.progress } });
    const share = shareOf(event.progress);
    if (share - spoken < SPOKEN) return spoken;
    announce(t(`models.transfer.said.${kind}`, { part: percent(share, 0) }));
    return share;
  }
  if (what === "file") {
    jobs.patch({ [kind]: { ...job, files: [...job.files, event.file] } });
    return spoken;
  }
  jobs.patch({ [kind]: event[kind] });
  if (what !== "created") end(kind, what);
  return spoken;
}

/** Say what has become of it, also on other pages: the message is read by screen readers too. */
function end(kind, status) {
  toast(t(`models.transfer.${status}.${kind}`), { kind: status === "failed" ? "error" : "info" });
  finished.set((times) => times + 1);
}

/** Stop a transfer; a later one continues where it stopped. */
export async function cancel(kind) {
  const job = jobs.value[kind];
  try {
    await api.post(`v1/${kind}/${job.id}/cancel`);
  } catch (error) {
    toastError(error);
  }
}

/** Forget a transfer that has ended. */
export function forget(kind, id) {
  followed.delete(id);
  if (jobs.value[kind]?.id === id) jobs.patch({ [kind]: null });
  api.delete(`v1/${kind}/${id}`, { quiet: true }).catch(() => {}); // it may be forgotten already
}
