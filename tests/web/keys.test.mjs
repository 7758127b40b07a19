// What the form of a key says and becomes: no DOM needed.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { useWords } from "../../offgrid/web/lib/i18n.js";
import { bodyOf, endOfDate, faults, fieldsOf } from "../../offgrid/web/pages/keys/grant.js";
import { limitTexts } from "../../offgrid/web/parts/grant.js";

const english = new URL("../../offgrid/web/strings/en.json", import.meta.url);
useWords("en", JSON.parse(readFileSync(english, "utf8")));

const KEY = {
  name: "ward", scopes: ["inference", "stats"], models: ["a", "b"], expires: 2e9,
  limits: { requests_per_minute: 5, tokens_per_minute: null, concurrent_requests: 1, max_tokens: null },
};

test("a new key has the usual scopes, and the first one may do everything", () => {
  assert.deepEqual(bodyOf(fieldsOf()), { scopes: ["inference", "history"], models: [], limits: {}, expires: "never" });
  assert.deepEqual(bodyOf(fieldsOf(null, true)).scopes, ["admin"]);
});

test("a key that is not changed stays as it is", () => {
  assert.deepEqual(bodyOf(fieldsOf(KEY)), {
    scopes: ["inference", "stats"], models: ["a", "b"],
    limits: { requests_per_minute: 5, concurrent_requests: 1 },
  });
});

test("fields become the body that the server understands", () => {
  const fields = fieldsOf(KEY);
  const changed = { ...fields, all: true, limits: { ...fields.limits, requests_per_minute: " ", max_tokens: "7" }, end: "30d" };
  assert.deepEqual(bodyOf(changed), {
    scopes: ["inference", "stats"], models: [], limits: { concurrent_requests: 1, max_tokens: 7 }, expires: "30d",
  });
  assert.equal(bodyOf({ ...fields, end: "never" }).expires, "never");
});

test("the last day of a key still counts, where the user is", () => {
  const end = new Date(endOfDate("2027-01-31") * 1000);
  assert.deepEqual([end.getFullYear(), end.getMonth(), end.getDate(), end.getHours()], [2027, 0, 31, 23]);
  assert.equal(endOfDate(""), 0);
  assert.equal(bodyOf({ ...fieldsOf(), end: "date", date: "2027-01-31" }).expires, endOfDate("2027-01-31"));
});

test("faults are found before anything is sent", () => {
  const today = endOfDate("2027-01-30");
  const good = { ...fieldsOf(), name: "ward" };
  assert.deepEqual(faults(good, today), {});
  const bad = {
    ...good, name: " ", scopes: new Set(), all: false, end: "date", date: "2027-01-30",
    limits: { ...good.limits, max_tokens: "0", requests_per_minute: "1.5" },
  };
  assert.deepEqual(Object.keys(faults(bad, today)).sort(), ["date", "max_tokens", "models", "name", "requests_per_minute", "scopes"]);
  assert.deepEqual(faults({ ...bad, date: "2027-01-31" }, today).date, undefined);
  assert.deepEqual(faults({ ...good, limits: { ...good.limits, max_tokens: "1000000000" } }, today), {});
});

test("limits are told with their numbers", () => {
  assert.deepEqual(limitTexts(KEY.limits), ["5 requests per minute", "1 request at a time"]);
  assert.deepEqual(limitTexts({ ...KEY.limits, requests_per_minute: 12_000, concurrent_requests: null }), ["12,000 requests per minute"]);
});
