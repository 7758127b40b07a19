// What the page says about other machines: no DOM needed.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { useWords } from "../../offgrid/web/lib/i18n.js";
import { isHere, isOutOfReach, machineOf } from "../../offgrid/web/lib/owner.js";
import {
  addressesOf, clock, commandFor, limitsText, modelsText, secondsLeft, sorted,
} from "../../offgrid/web/pages/machine/peers/data.js";

const english = new URL("../../offgrid/web/strings/en.json", import.meta.url);
useWords("en", JSON.parse(readFileSync(english, "utf8")));

const NO_LIMITS = { requests_per_minute: null, tokens_per_minute: null, concurrent_requests: null, max_tokens: null };

test("an address has its port only if that is not the usual one", () => {
  const addresses = ["192.168.1.7", "fe80::1"];
  assert.deepEqual(addressesOf({ addresses, port: 11612 }), addresses);
  assert.deepEqual(addressesOf({ addresses, port: 11700 }), ["192.168.1.7:11700", "[fe80::1]:11700"]);
});

test("the command for the other machine has the address of this one", () => {
  assert.equal(commandFor({ name: "ship", addresses: ["10.0.0.2", "10.0.0.3"], port: 11612 }, "1234-5678"), "offgrid peers pair 10.0.0.2 1234-5678");
  assert.equal(commandFor({ name: "ship", addresses: [], port: 11612 }, "1234-5678"), "offgrid peers pair ship 1234-5678");
});

test("what a machine may do is said in words", () => {
  assert.equal(modelsText({ models_allowed: null }), "All models");
  assert.equal(modelsText({ models_allowed: ["a", "b"] }), "a and b");
  assert.equal(limitsText({ limits: NO_LIMITS }), "None");
  assert.equal(limitsText({ limits: { ...NO_LIMITS, requests_per_minute: 30 } }), "30 requests per minute");
});

test("machines are sorted, and those that were paired come apart", () => {
  const machine = (name, paired) => ({ name, paired });
  const { paired, found } = sorted([machine("b", true), machine("c", false), machine("a", true)]);
  assert.deepEqual(paired.map(({ name }) => name), ["a", "b"]);
  assert.deepEqual(found.map(({ name }) => name), ["c"]);
});

test("the time of a code comes from the server's clock, however wrong it is", () => {
  assert.equal(secondsLeft({ expires_at: 300 }, "Thu, 01 Jan 1970 00:00:10 GMT"), 290);
  assert.equal(secondsLeft({ expires_at: 5 }, "Thu, 01 Jan 1970 00:00:10 GMT"), 0);
  const left = secondsLeft({ expires_at: Date.now() / 1000 + 60 }, null);
  assert.ok(left > 50 && left <= 60);
  assert.equal(clock(245), "4:05");
  assert.equal(clock(0.4), "0:01");
});

test("a model belongs to this machine or to another one", () => {
  const here = { owned_by: "offgrid-llm", peer: null, status: "failed" };
  assert.ok(isHere(here));
  assert.equal(machineOf(here), null);
  assert.ok(!isOutOfReach(here));
  const far = { owned_by: "workshop", peer: "0123", status: "loaded" };
  assert.equal(machineOf(far), "workshop");
  assert.ok(!isOutOfReach(far));
  assert.ok(isOutOfReach({ ...far, status: "failed" }));
});
