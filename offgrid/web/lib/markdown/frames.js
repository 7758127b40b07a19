/**
 * Spreads rendering over frames: all views of the page share a few milliseconds of each.
 *
 * The page must answer to clicks while a conversation of 200 messages is rendered.
 */

/** Milliseconds of a frame, or of the task that opens a conversation, for rendering. */
const BUDGET = 8;

/** Jobs that wait for a frame; the last one comes first, because it is at the end of the page. */
const waiting = new Set();
let frame = 0;
/** Until when the current task may render; 0 if none has yet. */
let deadline = 0;

/**
 * Runs a job in the next frame, or in one after it.
 * @param {(isOver: () => boolean) => boolean} job renders until `isOver()`; returns whether it has
 *     more to render
 */
export function inFrame(job) {
  waiting.delete(job);
  waiting.add(job);
  frame ||= requestAnimationFrame(runFrame);
}

/**
 * Runs a job at once if the task has time for it, otherwise in a frame.
 * @param {(isOver: () => boolean) => boolean} job
 */
export function nowOrInFrame(job) {
  if (!deadline) {
    deadline = performance.now() + BUDGET;
    setTimeout(() => (deadline = 0));
  }
  const isOver = () => performance.now() > deadline;
  if (isOver() || job(isOver)) inFrame(job);
}

/**
 * Forgets a job.
 * @param {(isOver: () => boolean) => boolean} job
 */
export function cancelFrame(job) {
  waiting.delete(job);
}

function runFrame() {
  frame = 0;
  const end = performance.now() + BUDGET;
  const isOver = () => performance.now() > end;
  for (const job of [...waiting].reverse()) {
    waiting.delete(job);
    if (job(isOver)) waiting.add(job);
    if (isOver()) break;
  }
  if (waiting.size) frame ||= requestAnimationFrame(runFrame);
}
