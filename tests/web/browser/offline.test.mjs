// The page needs no network but its server: it works in a browser that can look up no name, and
// every request of a walk through all pages goes to the server's own address.
import assert from "node:assert/strict";
import { test } from "node:test";
import { openPage, shown } from "../lib/browser.mjs";
import { ask, lastAnswer, newChat } from "../lib/chat.mjs";
import { text } from "../lib/servers.mjs";
import { ROUTES, suite } from "../lib/suite.mjs";

const it = suite();

test("a walk through all pages and a chat ask no other host", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "writer");
  await ask(page, "Write a formula");
  await (await lastAnswer(page)).locator("math").first().waitFor();
  for (const route of ROUTES) {
    await page.getByRole("navigation").getByRole("link", { name: await text(`app.page.${route.slice(1)}`) }).click();
    await page.waitForFunction((hash) => location.hash.startsWith(hash), `#${route}`);
    await shown(page);
    await page.waitForLoadState("networkidle");
  }
  assert.ok(context.watch.requests.length > 30);
  for (const url of context.watch.requests) {
    if (!/^(data|blob):/.test(url)) assert.equal(new URL(url).origin, new URL(it.server.url).origin);
  }
}));

test("without a connection the open page stays, says so, and comes back", () => it.visit(async (context) => {
  context.watch.allow(/ERR_INTERNET_DISCONNECTED/, /ERR_NETWORK_CHANGED/);
  const page = await openPage(context, it.server, "/chat");
  await context.setOffline(true);
  const banner = page.getByText(await text("app.away"));
  await page.getByRole("navigation").getByRole("link", { name: await text("app.page.settings") }).click();
  await page.getByRole("navigation").getByRole("link", { name: await text("app.page.chat") }).click();
  await banner.waitFor();
  await context.setOffline(false);
  await banner.waitFor({ state: "detached" });
}));

test("the page's files are compressed, revalidated, and allow no foreign code", async () => {
  const response = await fetch(`${it.server.url}/ui`, { headers: { Accept: "text/html" } });
  const policy = response.headers.get("content-security-policy");
  for (const part of ["default-src 'self'", "script-src 'self'", "object-src 'none'", "base-uri 'none'"]) {
    assert.ok(policy.includes(part), `${part} is not in ${policy}`);
  }
  assert.ok(!policy.includes("unsafe"), policy);
  assert.ok(response.headers.get("etag"));
  const again = await fetch(`${it.server.url}/ui`, {
    headers: { "If-None-Match": response.headers.get("etag") } });
  assert.equal(again.status, 304);
});
