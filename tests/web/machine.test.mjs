// The load over time and its drawing: pure functions, no DOM needed.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  SPANS, binned, disksOf, endOf, fullness, join, outcomes, read, summary,
} from "../../offgrid/web/pages/machine/series.js";
import { nearest, niceStep, path, scaleOf, timeTicks } from "../../offgrid/web/parts/plot.js";

const [MINUTES] = SPANS;

/** An answer of /v1/stats/series with points at some times. */
function told(at, { last = at.length - 1, started = 1000, values = at.map(() => 1) } = {}) {
  return {
    object: "stats.series", window: "hour", step: 5, started, last, at,
    tokens: { prompt: values, completion: values }, cpus: values,
  };
}

test("an answer is read into columns by name", () => {
  const series = read(told([5, 10], { values: [1, 2] }));
  assert.deepEqual(Object.keys(series.columns), ["at", "tokens.prompt", "tokens.completion", "cpus"]);
  assert.deepEqual(series.columns["tokens.completion"], [1, 2]);
  assert.equal(series.last, 1);
});

test("new points are added, and the oldest leave", () => {
  const known = read(told([5, 10, 15]));
  const more = join(known, read(told([20], { last: 3, values: [7] })));
  assert.deepEqual(more.columns.at, [5, 10, 15, 20]);
  assert.deepEqual(more.columns.cpus, [1, 1, 1, 7]);
  assert.equal(more.last, 3);
  assert.deepEqual(join(more, read(told([], { last: 3 }))).columns, more.columns);
  const long = read(told(Array.from({ length: 720 }, (_, n) => 5 * n)));
  const longer = join(long, read(told([3600], { last: 720 })));
  assert.equal(longer.columns.at.length, 720);
  assert.equal(longer.columns.at[0], 5);
});

test("points that do not continue the known ones make the page ask for all", () => {
  const known = read(told([5, 10, 15]));
  assert.equal(join(known, read(told([20], { last: 3, started: 2000 }))), null); // a restart
  assert.equal(join(known, read(told([5], { last: 0 }))), null);
  assert.equal(join(known, read(told([20], { last: 9 }))), null); // some are missing
  assert.equal(join(known, read(told([12], { last: 3 }))), null); // the clock was set
  const first = read(told([5]));
  assert.equal(join(null, first), first);
});

test("a line has the means of equal parts, and gaps where nothing is known", () => {
  const series = read(told([600, 605, 610, 640, 645], { values: [1, 3, 5, null, 9] }));
  const points = binned(series, "cpus", MINUTES);
  assert.equal(points.length, MINUTES.bins);
  assert.equal(endOf(series, MINUTES), 650);
  assert.deepEqual(points.slice(-6), [
    [600, 1], [610, 4], [620, null], [630, null], [640, null], [650, 9],
  ]);
});

test("parts stay the same while time goes on", () => {
  const at = Array.from({ length: 100 }, (_, n) => 1003 + 5 * n);
  const values = at.map((_, n) => n % 7);
  const before = binned(read(told(at.slice(0, -1), { values: values.slice(0, -1) })), "cpus", MINUTES);
  const after = new Map(binned(read(told(at, { values })), "cpus", MINUTES));
  // Only the part that is not over may change.
  for (const [end, value] of before.slice(2, -1)) assert.equal(after.get(end), value);
});

test("the sentence about a line has its last, mean and largest number", () => {
  assert.deepEqual(summary([[1, 2], [2, null], [3, 8], [4, 5]]), { now: 5, mean: 5, most: 8, at: 3 });
  assert.equal(summary([[1, null]]), null);
});

test("places on the same disk are one disk", () => {
  const disks = [
    { place: "cache", total: 1e12, free: 5e10 }, { place: "models", total: 1e12, free: 5.00001e10 },
    { place: "responses", total: 3e10, free: 4e9 },
  ];
  assert.deepEqual(disksOf(disks), [
    { places: ["cache", "models"], total: 1e12, free: 5e10 },
    { places: ["responses"], total: 3e10, free: 4e9 },
  ]);
});

test("a disk is full by what is left, and small cards are not always full", () => {
  assert.equal(fullness({ total: 1e12, free: 5e10 }), null);
  assert.equal(fullness({ total: 1e12, free: 4e9 }), "warn");
  assert.equal(fullness({ total: 1e12, free: 9e8 }), "danger");
  assert.equal(fullness({ total: 4e9, free: 1e9 }), null);
  assert.equal(fullness({ total: 4e9, free: 1e8 }), "danger");
});

test("requests are counted by what became of them", () => {
  const endpoints = [
    { status: "2xx", count: 5 }, { status: "3xx", count: 1 }, { status: "4xx", count: 2 },
    { status: "5xx", count: 3 }, { status: "2xx", count: 1 },
  ];
  assert.deepEqual(outcomes(endpoints), { answered: 7, refused: 2, failed: 3 });
});

test("a scale has round numbers and room for their labels", () => {
  const lines = [{ name: "a", points: [[0, 3], [10, null], [20, 41]] }];
  const scale = scaleOf(lines, 320);
  assert.deepEqual(scale.ticks, [0, 20, 40, 60]);
  assert.deepEqual([scale.from, scale.to], [0, 20]);
  assert.equal(scale.x(0), scale.left);
  assert.equal(scale.at(scale.x(15)), 15);
  assert.ok(scale.y(0) > scale.y(60));
  assert.ok(scaleOf(lines, 320, 0, { y: (value) => `${value} GB of memory` }).left > scale.left + 50);
  const wider = scaleOf(lines, 320, 0, { most: 100, from: -100, to: 100 });
  assert.deepEqual([wider.from, wider.to, wider.ticks.at(-1)], [-100, 100, 100]);
  assert.deepEqual(scaleOf([{ name: "a", points: [[0, 0]] }], 320).ticks, [0, 1]);
  assert.equal(scaleOf([{ name: "a", points: [[0, null]] }], 320), null);
  assert.deepEqual([0.3, 1, 7, 12, 340].map(niceStep), [0.5, 1, 10, 20, 500]);
});

test("a line is drawn with gaps, and a single point as a dot", () => {
  const scale = { from: 0, x: (at) => at, y: (value) => value };
  assert.equal(path([[0, 1], [1, 2], [2, null], [3, 4], [4, null]], scale), "M0.0 1.0L1.0 2.0M3.0 4.0h0");
  assert.equal(path([[-1, 1], [0, 2], [1, 3]], scale), "M0.0 2.0L1.0 3.0");
  assert.equal(nearest([{ points: [[0, 1], [5, null], [8, 2]] }], 5), 8);
  assert.equal(nearest([{ points: [[0, null]] }], 5), null);
});

test("labels of times are round in local time, and fit", () => {
  assert.deepEqual(timeTicks(1000, 1600, 5, 0), [1080, 1200, 1320, 1440, 1560]);
  assert.deepEqual(timeTicks(1000, 1600, 2, 0), [1200, 1500]);
  const day = 86_400;
  assert.deepEqual(timeTicks(10 * day, 11 * day, 4, 0).map((at) => at - 10 * day), [0, 21_600, 43_200, 64_800, day]);
  // In India, which is 5.5 hours before UTC, hours begin at half past.
  assert.deepEqual(timeTicks(3600, 4 * 3600, 3, -330), [5400, 9000, 12_600]);
  assert.ok(timeTicks(0, 40 * day, 3, 0).length <= 4);
});
