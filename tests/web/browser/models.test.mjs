// The page of models: what is there and why not, load and unload, import with progress and cancel.
import assert from "node:assert/strict";
import { test } from "node:test";
import { accessible } from "../lib/axe.mjs";
import { fitsAcross, openPage } from "../lib/browser.mjs";
import { text } from "../lib/servers.mjs";
import { suite } from "../lib/suite.mjs";

const it = suite({ model: null });
const LARGE = 6_000_000_000;

const card = (page, name) => page.getByRole("article", { name, exact: true });
const press = async (place, name) =>
  place.getByRole("button", { name: await text(name), exact: true }).click();

/** Choose an entry of the menu of a model. */
async function choose(page, model, entry) {
  await card(page, model).getByRole("button", { name: new RegExp(model) }).click();
  await page.getByRole("menuitem", { name: await text(entry) }).click();
}

test("files that cannot be used have a reason", () => it.visit(async (context) => {
  const page = await openPage(context, it.server, "/models");
  await page.getByText("broken.gguf").waitFor();
  await page.getByText("GGUF version", { exact: false }).waitFor();
}));

test("a model is loaded and unloaded", () => it.visit(async (context) => {
  const page = await openPage(context, it.server, "/models");
  await press(card(page, "writer"), "models.load");
  await card(page, "writer").getByText(await text("models.status.loaded"), { exact: true }).waitFor();
  const { data } = await it.server.api("GET", "/v1/loaded");
  assert.ok(data.some(({ id }) => id === "writer"));
  await accessible(page, "loaded models");
  await press(card(page, "writer"), "models.unload");
  await card(page, "writer").getByText(await text("models.status.unloaded"), { exact: true }).waitFor();
}));

test("a model becomes the default one, and stays loaded", () => it.visit(async (context) => {
  const page = await openPage(context, it.server, "/models");
  await choose(page, "writer", "models.make_default");
  await card(page, "writer").getByText(await text("models.default"), { exact: true }).waitFor();
  await choose(page, "writer", "models.pin");
  await card(page, "writer").getByText(await text("models.pinned"), { exact: true }).waitFor();
  await page.reload();
  await card(page, "writer").getByText(await text("models.default"), { exact: true }).waitFor();
  await choose(page, "writer", "models.unpin");
  await card(page, "writer").getByText(await text("models.pinned")).waitFor({ state: "detached" });
}));

test("a model is imported from a stick", () => it.visit(async (context) => {
  await it.server.addToStick("guest.gguf", { model: "writer" });
  const page = await openPage(context, it.server, "/models");
  await page.getByRole("button", { name: "Import guest" }).click();
  await page.getByText(await text("models.transfer.completed.import")).first().waitFor();
  await card(page, "guest").waitFor();
  const { data } = await it.server.api("GET", "/v1/models");
  assert.ok(data.some(({ id }) => id === "guest"));
}));

test("an import shows its progress, survives a reload, and is cancelled", () => it.visit(async (context) => {
  await it.server.addToStick("giant.gguf", { size: LARGE });
  const page = await openPage(context, it.server, "/models");
  await page.getByRole("button", { name: "Import giant" }).click();
  const transfer = page.getByRole("article", { name: await text("models.transfer.title.import") });
  const bar = transfer.getByRole("progressbar");
  const moves = () => bar.evaluate((element) => element.value > 0);
  for (let begun = false; !begun;) {
    await bar.waitFor();
    begun = await moves();
  }
  await accessible(page, "an import");
  await page.reload();
  await bar.waitFor();
  await press(transfer, "app.cancel");
  await page.getByText(await text("models.transfer.cancelled.import")).first().waitFor();
  const { data } = await it.server.api("GET", "/v1/models");
  assert.ok(!data.some(({ id }) => id === "giant"));
}));

test("models and a stick fit a phone", () => it.visit(async (context) => {
  const page = await openPage(context, it.server, "/models");
  await page.getByRole("button", { name: "Import giant" }).waitFor();
  await fitsAcross(page, "models with a stick");
}, { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true }));

test("a model is deleted after a question", () => it.visit(async (context) => {
  const page = await openPage(context, it.server, "/models");
  await choose(page, "guest", "models.remove");
  const question = page.getByRole("dialog", { name: await text("models.remove_title") });
  await press(question, "app.cancel");
  await question.waitFor({ state: "detached" });
  await card(page, "guest").waitFor();
  await choose(page, "guest", "models.remove");
  await press(question, "models.remove_action");
  await card(page, "guest").waitFor({ state: "detached" });
}));
