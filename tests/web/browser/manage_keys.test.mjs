// The page about keys: from the first key of an open server to the last one.
import assert from "node:assert/strict";
import { test } from "node:test";
import { accessible } from "../lib/axe.mjs";
import { openPage } from "../lib/browser.mjs";
import { text } from "../lib/servers.mjs";
import { suite } from "../lib/suite.mjs";

const it = suite();
const REFUSED = [/status of 40[0139]/];

const button = async (page, name) => page.getByRole("button", { name: await text(name), exact: true });
const answer = (page) => page.locator("dialog[open] footer button").last();
const status = async (secret) => {
  const headers = secret ? { Authorization: `Bearer ${secret}` } : {};
  return (await fetch(`${it.server.url}/v1/models`, { headers })).status;
};

/** Read the secret that the page shows once, and close it. */
async function takeSecret(page) {
  const secret = await page.locator(".key-secret textarea").inputValue();
  await accessible(page, "the secret");
  await (await button(page, "keys.have_secret")).click();
  await page.locator(".key-secret").waitFor({ state: "detached" });
  assert.ok(!(await page.content()).includes(secret));
  return secret;
}

/** Choose from the menu of a key. */
async function choose(page, key, action) {
  const card = page.locator(".key").filter({ has: page.getByRole("heading", { name: key, exact: true }) });
  await card.getByRole("button").click();
  await page.getByRole("menuitem", { name: await text(`keys.${action}`) }).click();
}

/** Fill in the name of a new key, and create it. */
async function create(page, name) {
  await page.getByRole("textbox", { name: await text("keys.name"), exact: true }).fill(name);
  await answer(page).click();
}

let owner; // the secret that the browser of these tests uses

const visit = (run) => it.visit(async (context) => {
  context.watch.allow(...REFUSED);
  await run(context, await openPage(context, it.server, "/keys"));
}, { remembered: owner ? { key: owner } : {} });

test("the first key closes the server, and this browser uses it", () => visit(async (context, page) => {
  assert.equal(await status(), 200);
  await (await button(page, "keys.create_first")).click();
  const everything = page.getByRole("checkbox", { name: await text("keys.scope.admin"), exact: true });
  assert.ok(await everything.isChecked() && await everything.isDisabled());
  assert.equal(await page.getByRole("combobox", { name: await text("keys.end_label") }).count(), 0, "it has no end");
  await create(page, "Owner");
  await page.locator(".key-secret").waitFor();
  owner = await takeSecret(page);
  await page.getByText(await text("keys.own"), { exact: true }).waitFor();
  assert.deepEqual([await status(), await status(owner)], [401, 200]);
  await page.reload();
  await page.getByRole("heading", { name: "Owner" }).waitFor();
}));

test("a key is created with limits and an end, and faults are shown at their fields", () => visit(async (context, page) => {
  await (await button(page, "keys.create")).click();
  await answer(page).click();
  const name = page.getByRole("textbox", { name: await text("keys.name"), exact: true });
  await page.getByText(await text("keys.fault.name")).waitFor();
  assert.equal(await name.getAttribute("aria-invalid"), "true");
  await accessible(page, "faults in the form");
  await page.getByRole("combobox", { name: await text("keys.end_label") }).selectOption("30d");
  await page.locator("dialog summary").click();
  await page.getByLabel(await text("keys.limit.requests_per_minute")).fill("30");
  await create(page, "Owner");
  await page.getByText(/there is a key named Owner/).waitFor(); // what only the server knows
  await create(page, "Ward 3");
  await page.locator(".key-secret").waitFor();
  const secret = await takeSecret(page);
  assert.equal(await status(secret), 200);
  const card = page.locator(".key").filter({ hasText: "Ward 3" });
  await card.getByText("30 requests per minute").waitFor();
  await accessible(page, "the keys");
}));

test("a key is changed, gets another secret, and is revoked", () => visit(async (context, page) => {
  await (await button(page, "keys.create")).click();
  await create(page, "Lab");
  await page.locator(".key-secret").waitFor();
  const first = await takeSecret(page);
  await choose(page, "Lab", "change");
  await page.getByRole("checkbox", { name: await text("keys.scope.stats"), exact: true }).check();
  await answer(page).click();
  const card = page.locator(".key").filter({ hasText: "Lab" });
  await card.getByText(await text("keys.scope.stats"), { exact: true }).waitFor();
  await choose(page, "Lab", "rotate");
  await answer(page).click();
  await page.locator(".key-secret").waitFor();
  const second = await takeSecret(page);
  assert.deepEqual([await status(first), await status(second)], [401, 200]);
  await choose(page, "Lab", "revoke");
  await answer(page).waitFor();
  await page.keyboard.press("Escape"); // that is no yes
  await answer(page).waitFor({ state: "detached" });
  assert.equal(await status(second), 200);
  await choose(page, "Lab", "revoke");
  await answer(page).click();
  await card.waitFor({ state: "detached" });
  assert.equal(await status(second), 401);
  await page.getByRole("checkbox", { name: await text("keys.show_revoked") }).check();
  await card.waitFor();
  assert.equal(await card.getByRole("button").count(), 0);
}));

test("the last key that may change keys is revoked only after a second question", () => visit(async (context, page) => {
  await choose(page, "Owner", "revoke");
  await answer(page).click();
  await page.getByText(await text("keys.last_text")).waitFor();
  await page.locator("dialog[open] footer button").first().click();
  assert.equal(await status(owner), 200);
  await choose(page, "Owner", "revoke");
  await answer(page).click();
  await page.getByText(await text("keys.last_text")).waitFor();
  await answer(page).click();
  await page.getByText(await text("key.text")).waitFor(); // the question for another key
  assert.equal(await status(owner), 401);
}));
