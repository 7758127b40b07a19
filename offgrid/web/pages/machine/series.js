// The load over time as the server tells it: joined, cut, summed up. Pure functions.

/** Points that a window has at most, as on the server. */
const MOST = { hour: 720, day: 1440 };

/** What can be looked at: the seconds, and the window of the server that has them. */
export const SPANS = [
  { name: "minutes", seconds: 600, window: "hour", bins: 60 },
  { name: "hour", seconds: 3600, window: "hour", bins: 60 },
  { name: "day", seconds: 86_400, window: "day", bins: 96 },
];

/** All lists of a series by their names, such as "tokens.prompt". */
function lists(series, prefix = "") {
  return Object.entries(series).flatMap(([name, value]) => {
    if (Array.isArray(value)) return [[prefix + name, value]];
    return value && typeof value === "object" ? lists(value, `${prefix}${name}.`) : [];
  });
}

/**
 * Return what the server told, with lists by name: {started, last, step, columns}.
 * @param {object} told an answer of /v1/stats/series
 */
export function read(told) {
  return { window: told.window, started: told.started, last: told.last, step: told.step, columns: Object.fromEntries(lists(told)) };
}

/**
 * Add new points to those that are known. Returns null if they do not continue these: the server
 * was restarted, or its clock was set. Then all points are to be asked for.
 */
export function join(known, fresh) {
  if (!known) return fresh;
  const before = known.columns.at;
  const after = fresh.columns.at;
  if (known.started !== fresh.started || fresh.last < known.last || fresh.last - known.last !== after.length) return null;
  if (before.length && after.length && after[0] <= before.at(-1)) return null;
  const columns = {};
  for (const [name, values] of Object.entries(known.columns)) {
    columns[name] = [...values, ...fresh.columns[name]].slice(-MOST[known.window]);
  }
  return { ...fresh, columns };
}

/**
 * Return the means of a column in equal parts of a span: [[end of the part, mean or null], ...].
 *
 * The parts end at round times, so that they stay the same while time goes on. Parts without a known
 * number are null, so that a line has a gap where the machine slept.
 */
export function binned(series, name, { seconds, bins }) {
  const size = seconds / bins;
  const to = endOf(series, { seconds, bins });
  const sums = Array.from({ length: bins }, () => [0, 0]);
  series.columns.at.forEach((at, index) => {
    const value = series.columns[name][index];
    const bin = bins - 1 - Math.floor((to - at) / size);
    if (value === null || bin < 0 || bin >= bins) return;
    sums[bin][0] += value;
    sums[bin][1] += 1;
  });
  return sums.map(([sum, count], bin) => [to - (bins - 1 - bin) * size, count ? sum / count : null]);
}

/** Return where the last part of a span ends. */
export function endOf(series, { seconds, bins }) {
  const size = seconds / bins;
  return Math.ceil((series.columns.at.at(-1) ?? 0) / size) * size;
}

/** Return {now, mean, most, at}: the last, the mean and the largest number, and when that was. */
export function summary(points) {
  const known = points.filter(([, value]) => value !== null);
  if (!known.length) return null;
  let best = known[0];
  let sum = 0;
  for (const point of known) {
    sum += point[1];
    if (point[1] > best[1]) best = point;
  }
  return { now: known.at(-1)[1], mean: sum / known.length, most: best[1], at: best[0] };
}

/** Return the disks of the places, each once: [{places, total, free}]. */
export function disksOf(disks) {
  const found = [];
  for (const { place, total, free } of disks) {
    // The places were looked at one after the other, while something may have been written.
    const same = found.find((one) => one.total === total && Math.abs(one.free - free) < total / 1000);
    if (same) same.places.push(place);
    else found.push({ places: [place], total, free });
  }
  return found;
}

const LOW = 5e9;
const VERY_LOW = 1e9;

/** How full a disk is: "danger", "warn" or null. Small cards are full later than large disks. */
export function fullness({ total, free }) {
  if (free < Math.min(VERY_LOW, total / 20)) return "danger";
  return free < Math.min(LOW, total / 10) ? "warn" : null;
}

/** Return the totals of requests by what became of them. */
export function outcomes(endpoints) {
  const found = { answered: 0, refused: 0, failed: 0 };
  const names = { "4xx": "refused", "5xx": "failed" };
  for (const { status, count } of endpoints) found[names[status] ?? "answered"] += count;
  return found;
}
