// How far an import or export is, and what became of its files.

import { classes, html } from "../../lib/dom.js";
import { bytes, t } from "../../lib/i18n.js";
import { useStore } from "../../lib/store.js";
import { Button, IconButton } from "../../parts/button.js";
import { Icon } from "../../parts/icon.js";
import { Progress } from "../../parts/progress.js";
import { begin, cancel, forget, jobs } from "./jobs.js";
import { shareOf } from "./places.js";

const TONE = { completed: "good", failed: "danger", cancelled: "warn" };
const WRONG = new Set(["failed", "skipped"]);

/** The transfers that run, or have ended and were not put away. */
export function Transfers() {
  const { import: coming, export: going } = useStore(jobs);
  if (!coming && !going) return null;
  const runs = [coming, going].some((job) => job?.status === "in_progress");
  return html`<section class=${classes("transfers", runs && "running")} aria-label=${t("models.transfers")}>
    ${coming && html`<${Transfer} kind="import" job=${coming} />`}
    ${going && html`<${Transfer} kind="export" job=${going} />`}
  </section>`;
}

function Transfer({ kind, job }) {
  const runs = job.status === "in_progress";
  const wrong = job.files.filter((file) => WRONG.has(file.status));
  return html`<article class=${`card transfer ${TONE[job.status] ?? ""}`} aria-label=${t(`models.transfer.title.${kind}`)}>
    <header>
      <h2>${runs ? t(`models.transfer.title.${kind}`) : t(`models.transfer.${job.status}.${kind}`)}</h2>
      ${runs
        ? html`<${Button} icon="close" onClick=${() => cancel(kind)}>${t("app.cancel")}<//>`
        : html`<${IconButton} icon="close" label=${t("app.close")} onClick=${() => putAway(kind, job)} />`}
    </header>
    ${runs && html`<${Running} kind=${kind} progress=${job.progress} />`}
    ${job.error && html`<p dir="auto" class="reason" lang="en">${job.error.message}</p>`}
    ${!runs && html`<${Ending} kind=${kind} job=${job} />`}
    ${wrong.length > 0 && html`<${Wrong} kind=${kind} job=${job} files=${wrong} />`}
  </article>`;
}

function putAway(kind, job) {
  forget(kind, job.id);
  document.getElementById("installed")?.focus();
}

function Running({ kind, progress }) {
  const share = shareOf(progress);
  const text = share === null ? "" : t("models.transfer.part", { done: bytes(progress.all_done), total: bytes(progress.all_total) });
  return html`<${Progress} value=${share} label=${t(`models.transfer.title.${kind}`)} text=${text} />
    <p class="small muted" dir="auto">${progress ? t(`models.transfer.${progress.phase}`, { file: progress.file }) : t(`models.transfer.searching.${kind}`)}</p>`;
}

/** What is on the disk or stick now, and what to do next. */
function Ending({ kind, job }) {
  const there = job.files.filter((file) => !WRONG.has(file.status)).length;
  return html`<p class="small">
    ${job.files.length > 0 && t("models.transfer.there", { count: there })}${" "}
    ${job.status === "cancelled" && t("models.transfer.continues")}
    ${kind === "export" && job.status !== "cancelled" && there > 0 && html`<${Icon} name="eject" /> ${t("models.transfer.eject")}`}
  </p>`;
}

function Wrong({ kind, job, files }) {
  const different = files.filter((file) => file.code === "different" && file.id !== null);
  const where = kind === "export" ? { path: job.path } : job.peer ? { peer: job.peer } : { paths: job.paths };
  const replace = () => {
    forget(kind, job.id);
    begin(kind, { ...where, ids: different.map((file) => file.id), replace: true });
  };
  return html`<ul class="plain-list rows">
      ${files.map((file) => html`<li key=${file.name} class="file"><div>
        <p class="name" dir="auto">${file.name}</p>
        <p class="small reason" dir="auto" lang=${file.code === "different" ? undefined : "en"}>${file.code === "different" ? t(`models.transfer.different.${kind}`) : file.reason}</p>
      </div></li>`)}
    </ul>
    ${different.length > 0 && job.status !== "in_progress" && html`<div class="row"><${Button} kind="danger" onClick=${replace}>${t("models.transfer.replace", { count: different.length })}<//></div>`}`;
}
