// A server that needs a key: entered once; revoked; keys that allow less.
import assert from "node:assert/strict";
import { test } from "node:test";
import { openPage } from "../lib/browser.mjs";
import { text } from "../lib/servers.mjs";
import { suite } from "../lib/suite.mjs";

const it = suite({ keys: true });
const REFUSED = /status of 401/;

const dialogOf = async (page) => page.getByRole("dialog", { name: await text("key.title") });

/** Answer the question for the key. */
async function giveKey(page, secret) {
  const dialog = await dialogOf(page);
  await dialog.getByLabel(await text("key.label"), { exact: true }).fill(secret);
  await dialog.getByRole("button", { name: await text("key.use") }).click();
}

/** Wait until the settings page says whose key it is. */
const named = async (page, name) => page.getByText(name, { exact: false }).first().waitFor();

test("a key is entered once", () => it.visit(async (context) => {
  context.watch.allow(REFUSED);
  const { secret } = await it.server.createKey("anna");
  const page = await openPage(context, it.server, "/settings");
  await giveKey(page, secret);
  await named(page, "anna");
  await page.reload();
  await named(page, "anna");
  const second = await openPage(context, it.server, "/settings");
  await named(second, "anna");
  for (const one of [page, second]) assert.equal(await (await dialogOf(one)).count(), 0);
}));

test("a wrong key says so, and can be entered again", () => it.visit(async (context) => {
  context.watch.allow(REFUSED);
  const { secret } = await it.server.createKey("bert");
  const page = await openPage(context, it.server, "/settings");
  await giveKey(page, "sk-offgrid-wrong");
  const dialog = await dialogOf(page);
  await dialog.getByRole("alert").waitFor();
  assert.match(await dialog.getByRole("alert").innerText(), /key/i);
  await giveKey(page, ` ${secret} `);
  await named(page, "bert");
}));

test("a key that is not kept is asked for again", () => it.visit(async (context) => {
  context.watch.allow(REFUSED);
  const { secret } = await it.server.createKey("guest");
  const page = await openPage(context, it.server, "/settings");
  await (await dialogOf(page)).getByLabel(await text("key.keep")).uncheck();
  await giveKey(page, secret);
  await named(page, "guest");
  await page.reload();
  await (await dialogOf(page)).waitFor();
}));

test("a revoked key asks for another one", () => it.visit(async (context) => {
  context.watch.allow(REFUSED);
  const old = await it.server.createKey("clara");
  const page = await openPage(context, it.server, "/settings");
  await giveKey(page, old.secret);
  await named(page, "clara ");
  await it.server.revokeKey("clara");
  await page.reload();
  const dialog = await dialogOf(page);
  await dialog.waitFor();
  await dialog.getByRole("alert").waitFor();
  const next = await it.server.createKey("clara-2");
  await giveKey(page, next.secret);
  await named(page, "clara-2");
}));

test("only administrators see the page of keys", () => it.visit(async (context) => {
  context.watch.allow(REFUSED);
  const { secret } = await it.server.createKey("dora");
  const page = await openPage(context, it.server, "/settings");
  await giveKey(page, secret);
  await named(page, "dora");
  const link = page.getByRole("navigation").getByRole("link", { name: await text("app.page.keys") });
  assert.equal(await link.count(), 0);
  await page.getByRole("button", { name: await text("settings.forget_key") }).click();
  await page.reload();
  await giveKey(page, it.server.secret);
  await link.waitFor();
}));

test("a key is created, its secret shown once, and revoked", () => it.visit(async (context) => {
  context.watch.allow(REFUSED);
  const page = await openPage(context, it.server, "/keys");
  await page.getByRole("button", { name: await text("keys.create"), exact: true }).click();
  const form = page.getByRole("dialog");
  await form.getByLabel(await text("keys.name"), { exact: true }).fill("emil");
  await form.getByRole("button", { name: await text("keys.create"), exact: true }).click();
  const secret = page.getByRole("dialog", { name: /emil/ });
  await secret.getByText(await text("keys.only_once")).waitFor();
  const shown = await secret.evaluate((dialog) => (dialog.innerText + [...dialog.querySelectorAll("input, textarea")]
    .map(({ value }) => value).join(" ")).match(/sk-offgrid-[\w-]{20,}/)?.[0]);
  assert.ok(shown, "the secret is not shown");
  const asked = () => fetch(`${it.server.url}/v1/models`, { headers: { Authorization: `Bearer ${shown}` } });
  assert.equal((await asked()).status, 200);
  await secret.getByRole("button", { name: await text("keys.have_secret") }).click();
  await secret.waitFor({ state: "detached" });
  assert.ok(!(await page.content()).includes(shown), "the secret is still on the page");
  await page.getByRole("button", { name: /emil/ }).click();
  await page.getByRole("menuitem", { name: await text("keys.revoke"), exact: true }).click();
  await page.getByRole("dialog").getByRole("button", { name: await text("keys.revoke"), exact: true }).click();
  await page.getByRole("button", { name: /emil/ }).waitFor({ state: "detached" });
  assert.equal((await asked()).status, 401);
}, { remembered: { key: it.server.secret } }));
