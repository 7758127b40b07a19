// The lab: what settings do, an answer token by token with branches, counts, errors, and what a reload keeps.
import assert from "node:assert/strict";
import { test } from "node:test";
import { accessible } from "../lib/axe.mjs";
import { fitsAcross, openPage } from "../lib/browser.mjs";
import { text } from "../lib/servers.mjs";
import { suite } from "../lib/suite.mjs";

const it = suite();
const PATH = "/v1/lab/distribution";

/** Open the lab with a text to be continued, and wait for its distribution. */
async function open(context, words = "4 + 7 =") {
  const page = await openPage(context, it.server, "/lab");
  page.on("response", (response) => { if (response.url().endsWith(PATH)) page.last = response; });
  await settled(page, async () => page.getByLabel(await text("lab.text"), { exact: true }).fill(words));
  return page;
}

/** Do something, and wait for the answer to the question that the page then has; return it. */
async function settled(page, act) {
  await act();
  await page.locator('.main[aria-busy="false"]').waitFor();
  return page.last.json();
}

const stepOf = async (page, name) =>
  page.getByRole("article", { name: await text(`lab.step.${name}`), exact: true });
const press = async (page, name) => page.getByRole("button", { name: await text(name) }).click();
const rows = (table) => table.locator("tbody tr").evaluateAll((all) => all.map((row) => row.innerText));
const answer = (page) => page.locator(".strip .token").evaluateAll((all) => all.map((one) => one.innerText));

test("a setting shows the distribution before and after its step", () => it.visit(async (context) => {
  const page = await open(context);
  const step = await stepOf(page, "top_k");
  assert.equal(await step.locator("table").count(), 0);
  const body = await settled(page, () => step.getByRole("spinbutton").fill("3"));
  const told = body.steps.find((one) => one.step === "top_k");
  await step.locator("table").waitFor();
  const shown = await rows(step.locator("table"));
  const removed = await text("lab.removed");
  assert.equal(shown.filter((row) => !row.includes(removed)).length, 3);
  assert.ok(shown.some((row) => row.includes(removed)));
  assert.equal(told.kept, 3);
  assert.match(await step.innerText(), new RegExp(told.removed.toLocaleString("en")));
}));

test("greedy: what follows the temperature says that it has no effect", () => it.visit(async (context) => {
  const page = await open(context);
  const temperature = (await stepOf(page, "temperature")).getByRole("spinbutton").first();
  await settled(page, () => temperature.fill("0"));
  assert.match(await (await stepOf(page, "top_p")).innerText(), new RegExp(await text("lab.inactive.greedy")));
}));

test("an answer grows token by token, and branches at any of them", () => it.visit(async (context) => {
  const page = await open(context);
  for (let i = 0; i < 3; i++) await settled(page, () => press(page, "lab.likeliest"));
  const first = await answer(page);
  assert.equal(first.length, 3);
  await settled(page, () => page.locator(".strip .token").nth(1).click());
  assert.deepEqual(await answer(page), first.slice(0, 1));
  const other = page.locator(".final tbody .token").nth(1);
  const chosen = await other.innerText();
  await settled(page, () => other.click());
  assert.deepEqual(await answer(page), [first[0], chosen]);
  await settled(page, () => page.locator(".branches button").first().click());
  assert.deepEqual(await answer(page), first);
  await page.locator(".branches button").first().waitFor(); // the one that was left
}));

test("a fixed seed draws the same token, and a reload keeps everything", () => it.visit(async (context) => {
  const page = await open(context);
  const temperature = (await stepOf(page, "temperature")).getByRole("spinbutton").first();
  await settled(page, () => temperature.fill("2"));
  const body = await settled(page, async () => page.getByLabel(await text("lab.seed_fixed")).check());
  await settled(page, () => press(page, "lab.sampled"));
  assert.equal((await answer(page)).length, 1);
  const remembered = await page.waitForFunction(() => localStorage.getItem("offgrid.lab")?.includes('"answer":[{'));
  assert.ok(remembered);
  await settled(page, () => page.reload());
  const asked = JSON.parse(page.last.request().postData());
  assert.equal(asked.seed, body.seed);
  assert.equal(asked.temperature, 2);
  assert.deepEqual(asked.continuation, [body.drawn.id]);
  assert.equal((await answer(page)).length, 1);
}));

test("more tokens can be shown", () => it.visit(async (context) => {
  const page = await open(context);
  const temperature = (await stepOf(page, "temperature")).getByRole("spinbutton").first();
  await settled(page, () => temperature.fill("2"));
  const table = page.locator(".final tbody");
  assert.equal((await rows(page.locator(".final"))).length, 20);
  await settled(page, async () => page.getByLabel(await text("lab.shown")).selectOption("50"));
  assert.equal(await table.locator("tr").count(), 50);
}));

test("counts of a thousand draws stand beside the expected ones", () => it.visit(async (context) => {
  const page = await open(context);
  await press(page, "lab.sample_many");
  const table = page.getByRole("table", { name: await text("lab.counts") });
  await table.waitFor();
  const counts = await table.locator("tbody td:last-child").evaluateAll((cells) => cells.map((cell) => Number(cell.innerText.replace(/,/g, ""))));
  assert.equal(counts.reduce((sum, one) => sum + one, 0), 1000);
}));

test("an error of the server stands at its field", () => it.visit(async (context) => {
  context.watch.allow(/status of 400/);
  const page = await open(context);
  const field = (await stepOf(page, "temperature")).getByRole("spinbutton").first();
  const { error } = await settled(page, () => field.fill("3"));
  await page.getByText(error.message).waitFor();
  assert.equal(await field.getAttribute("aria-invalid"), "true");
  assert.equal(await page.getByRole("button", { name: await text("lab.sampled") }).isDisabled(), true);
  await settled(page, () => field.fill("1"));
  assert.equal(await field.getAttribute("aria-invalid"), null);
}));

test("while a slider moves, old questions are given up", () => it.visit(async (context) => {
  const page = await open(context);
  let asked = 0;
  page.on("request", (request) => { asked += request.url().endsWith(PATH); });
  const slider = (await stepOf(page, "min_p")).getByRole("slider");
  await slider.focus();
  await settled(page, async () => { for (let i = 0; i < 20; i++) await page.keyboard.press("ArrowRight"); });
  assert.ok(asked < 10, `${asked} requests`);
}));

test("the settings as a command", () => it.visit(async (context) => {
  const page = await open(context, "it's");
  const step = await stepOf(page, "top_k");
  await settled(page, () => step.getByRole("spinbutton").fill("7"));
  const code = page.locator(".code pre");
  assert.match(await code.innerText(), /"top_k": 7/);
  await page.getByRole("tab", { name: await text("lab.code.python") }).click();
  assert.match(await code.innerText(), /extra_body=\{"top_k": 7\}/);
}));

test("the keyboard moves along the answer", () => it.visit(async (context) => {
  const page = await open(context);
  for (let i = 0; i < 2; i++) await settled(page, () => press(page, "lab.likeliest"));
  await page.locator(".strip .token").last().focus();
  await page.keyboard.press("ArrowLeft");
  await settled(page, () => page.keyboard.press("Enter"));
  assert.equal((await answer(page)).length, 0);
}));

for (const [name, options] of [
  ["a phone", { viewport: { width: 320, height: 700 } }],
  ["the dark", { colorScheme: "dark" }],
  ["right to left", { remembered: { language: "ar" }, viewport: { width: 390, height: 800 } }],
]) {
  test(`it fits, and everybody can use it: ${name}`, () => it.visit(async (context) => {
    const page = await openPage(context, it.server, "/lab");
    await page.locator(".final tbody tr").first().waitFor();
    await accessible(page, name);
    await fitsAcross(page, name);
  }, options));
}
