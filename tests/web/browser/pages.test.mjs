// Every page: no errors, no other hosts, accessible in both schemes, fits a phone, right to left.
import assert from "node:assert/strict";
import { test } from "node:test";
import { accessible } from "../lib/axe.mjs";
import { fitsAcross, openPage } from "../lib/browser.mjs";
import { ROUTES, suite } from "../lib/suite.mjs";

const it = suite();
const PHONE = { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true };

for (const route of ROUTES) {
  test(`${route} opens at first visit, is accessible in both schemes`, () => it.visit(async (context) => {
    const page = await openPage(context, it.server, route);
    await page.waitForLoadState("networkidle");
    assert.equal(await page.locator("main").count(), 1);
    assert.ok((await page.title()).length > 3);
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      await accessible(page, `${route}, ${colorScheme}`);
    }
  }));

  test(`${route} fits phones, and is accessible there`, () => it.visit(async (context) => {
    const page = await openPage(context, it.server, route);
    await page.waitForLoadState("networkidle");
    for (const width of [360, 320]) {
      await page.setViewportSize({ width, height: 740 });
      await fitsAcross(page, `${route} at ${width} pixels`);
    }
    await accessible(page, `${route} on a phone`);
  }, PHONE));

  test(`${route} reads from right to left in Arabic`, () => it.visit(async (context) => {
    const page = await openPage(context, it.server, route);
    await page.waitForLoadState("networkidle");
    assert.deepEqual(await page.evaluate(() => {
      const { dir, lang } = document.documentElement;
      return { dir, lang };
    }), { dir: "rtl", lang: "ar" });
    await fitsAcross(page, `${route} in Arabic`);
    await accessible(page, `${route} in Arabic`);
    await page.setViewportSize({ width: 1280, height: 800 });
    await fitsAcross(page, `${route} in Arabic on a desktop`);
    const [nav, main] = await page.evaluate(() => ["nav", "main"].map((name) =>
      document.querySelector(name).getBoundingClientRect().left));
    assert.ok(nav > main, "the navigation is not on the right");
  }, { ...PHONE, locale: "ar" }));
}

test("dark follows the system, and light does", async () => {
  const brightness = {};
  for (const colorScheme of ["light", "dark"]) {
    await it.visit(async (context) => {
      const page = await openPage(context, it.server);
      brightness[colorScheme] = await page.evaluate(() => {
        const [red, green, blue] = getComputedStyle(document.body).backgroundColor.match(/\d+/g);
        return (Number(red) + Number(green) + Number(blue)) / 3;
      });
    }, { colorScheme });
  }
  assert.ok(brightness.light > 200, `light: ${brightness.light}`);
  assert.ok(brightness.dark < 60, `dark: ${brightness.dark}`);
});
