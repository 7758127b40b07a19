// The page about the machine: figures that go on, rest while the tab is hidden, and stay while the server
// is away.
import assert from "node:assert/strict";
import { test } from "node:test";
import { accessible } from "../lib/axe.mjs";
import { fitsAcross, openPage } from "../lib/browser.mjs";
import { text } from "../lib/servers.mjs";
import { suite } from "../lib/suite.mjs";

const it = suite();
const AWAY = [/ERR_CONNECTION_REFUSED/, /ERR_EMPTY_RESPONSE/, /ERR_CONNECTION_RESET/, /status of 503/];
const PHONE = { viewport: { width: 320, height: 640 }, hasTouch: true, isMobile: true };

/** Open the page and wait for its figures. */
async function openMachine(context) {
  const page = await openPage(context, it.server, "/machine");
  await page.locator(".plot").first().waitFor();
  return page;
}

const complete = () => it.server.api("POST", "/v1/completions", {
  model: "offgrid-starter", prompt: "Once upon a time", max_tokens: 30, ignore_eos: true,
});

/** Let the page believe that its tab is hidden, or shown again. */
const hide = (page, hidden) => page.evaluate((value) => {
  Object.defineProperty(document, "hidden", { value, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}, hidden);

test("figures, slots, plots, memory, disks and requests are shown", () => it.visit(async (context) => {
  await complete();
  const page = await openMachine(context);
  await page.getByText(await text("machine.status.ready"), { exact: true }).first().waitFor();
  const model = page.getByRole("article", { name: "offgrid-starter" });
  await model.getByText(await text("machine.slot_state.idle")).first().waitFor();
  assert.equal(await model.locator(".slots > li").count(), 4);
  for (const name of ["over_time", "models", "memory", "disks", "requests"]) {
    await page.getByRole("heading", { name: await text(`machine.${name}`), exact: true }).waitFor();
  }
  assert.ok(await page.getByRole("meter").count() > 3);
}));

test("a plot has a sentence and a table", () => it.visit(async (context) => {
  await complete();
  const page = await openMachine(context);
  const plot = page.locator("figure").first();
  const drawing = plot.getByRole("img", { name: await text("machine.plot.tokens") });
  const described = await drawing.getAttribute("aria-describedby");
  const sentence = plot.locator(`[id="${described}"]`);
  // The point with the tokens arrives within some seconds.
  await sentence.getByText(new RegExp(`${await text("machine.written")}: [\\d.,]+ `)).waitFor();
  await plot.getByText(await text("app.as_table")).click();
  const rows = plot.locator("tbody tr");
  await rows.first().waitFor();
  assert.equal(await rows.count(), 60);
  await page.getByRole("tab").nth(1).click(); // an hour
  await page.locator("figure").first().getByRole("img").waitFor();
  await page.getByRole("tab").nth(2).click(); // a day, which has its first point after a minute
  await page.reload();
  await page.locator('[role="tab"][aria-selected="true"]').waitFor();
  assert.equal(await page.getByRole("tab").nth(2).getAttribute("aria-selected"), "true");
}));

test("nothing is asked while the tab is hidden, and at once when it is shown", () => it.visit(async (context) => {
  await context.clock.install();
  const page = await openMachine(context);
  const asked = () => context.watch.requests.filter((url) => url.includes("/v1/stats")).length;
  await page.waitForRequest(/v1\/stats$/); // it goes on by itself
  await hide(page, true);
  await page.waitForLoadState("networkidle");
  const before = asked();
  await page.clock.runFor(60_000);
  await page.waitForLoadState("networkidle");
  assert.equal(asked(), before);
  const next = page.waitForRequest(/v1\/stats$/);
  await hide(page, false);
  await next;
}));

test("the last figures stay while the server is away", () => it.visit(async (context) => {
  context.watch.allow(...AWAY);
  const page = await openMachine(context);
  await it.server.stop();
  await page.getByText(await text("app.away")).waitFor();
  await page.getByText(await text("machine.as_of")).waitFor();
  assert.ok(await page.locator(".figures").isVisible());
  await accessible(page, "the machine, away");
  await it.server.restart();
  await page.getByText(await text("machine.as_of")).waitFor({ state: "detached" });
  await page.locator(".plot").first().waitFor();
}));

for (const colorScheme of ["light", "dark"]) {
  test(`an open table and a phone, ${colorScheme}`, () => it.visit(async (context) => {
    const page = await openMachine(context);
    for (const summary of await page.locator("main summary").all()) await summary.click();
    await accessible(page, `the machine, ${colorScheme}`);
    await fitsAcross(page, "the machine");
    const main = page.locator("main");
    assert.equal(await main.evaluate((element) => element.scrollWidth - element.clientWidth), 0);
  }, { ...PHONE, colorScheme }));
}
