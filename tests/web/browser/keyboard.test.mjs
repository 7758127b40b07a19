// Every control of every page is reached with Tab alone, and dialogs and menus give the focus back.
import assert from "node:assert/strict";
import { test } from "node:test";
import { openPage } from "../lib/browser.mjs";
import { text } from "../lib/servers.mjs";
import { ROUTES, suite } from "../lib/suite.mjs";

const it = suite();

/** Number the controls that a person can see and use; return how many there are. */
const number = (page) => page.evaluate(() => {
  const controls = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")];
  // Tabs and menus are moved in with arrow keys: only one of theirs is reached with Tab.
  const usable = controls.filter((one) => one.tabIndex >= 0 && !one.disabled && one.checkVisibility()
    && getComputedStyle(one).visibility === "visible" && one.getClientRects().length > 0);
  usable.forEach((one, index) => { one.dataset.tested = String(index); });
  return usable.length;
});

/** The number of the control with the focus; null for the page itself. */
const focused = (page) => page.evaluate(() => document.activeElement?.dataset.tested ?? null);

for (const route of ROUTES) {
  test(`${route} is walked through with Tab`, () => it.visit(async (context) => {
    const page = await openPage(context, it.server, route);
    await page.waitForLoadState("networkidle");
    const count = await number(page);
    assert.ok(count > 5, `only ${count} controls`);
    const reached = new Set();
    for (let presses = 0; presses < 2 * count + 10 && reached.size < count; presses += 1) {
      await page.keyboard.press("Tab");
      const at = await focused(page);
      if (at !== null) reached.add(at);
    }
    const missed = await page.evaluate((numbers) => [...document.querySelectorAll("[data-tested]")]
      .filter((one) => !numbers.includes(one.dataset.tested)).map((one) => one.outerHTML.slice(0, 120)), [...reached]);
    assert.deepEqual(missed, []);
  }));
}

test("a dialog is opened, left and used with the keyboard", () => it.visit(async (context) => {
  const page = await openPage(context, it.server, "/keys");
  const create = page.getByRole("button", { name: await text("keys.create_first"), exact: true });
  await create.focus();
  await page.keyboard.press("Enter");
  const dialog = page.getByRole("dialog");
  await dialog.waitFor();
  assert.ok(await dialog.evaluate((element) => element.contains(document.activeElement)));
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  assert.ok(await create.evaluate((element) => element === document.activeElement));
}));

test("a model is loaded and its menu opened with the keyboard", () => it.visit(async (context) => {
  const page = await openPage(context, it.server, "/models");
  const load = page.getByRole("button", { name: await text("models.load"), exact: true }).first();
  await load.focus();
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: await text("models.unload"), exact: true }).first().waitFor();
  const menu = page.locator("[aria-haspopup=menu]").first();
  await menu.focus();
  await page.keyboard.press("Enter");
  await page.getByRole("menuitem").first().waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("role")), "menuitem");
  await page.keyboard.press("Escape");
  assert.ok(await menu.evaluate((element) => element === document.activeElement));
}));
