// What a model writes is hostile: nothing of it executes, and the page stays usable.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fitsAcross, openPage } from "../lib/browser.mjs";
import { ask, choose, field, lastAnswer, newChat } from "../lib/chat.mjs";
import { HOSTILE } from "../lib/hostile.mjs";
import { suite } from "../lib/suite.mjs";

const it = suite();
const ALLOWED_SCHEMES = /^(https?:|mailto:)/;

/** Fail if a text of a model became something that acts. */
async function harmless(page) {
  const found = await page.evaluate(() => {
    const box = document.querySelector("main");
    return {
      pwned: window.__pwned ?? null,
      elements: [...box.querySelectorAll(
        "script, iframe, object, embed, base, meta, link, style, article form[action], svg script",
      )].map((element) => element.outerHTML.slice(0, 200)),
      handlers: [...document.querySelectorAll("*")].flatMap((element) => [...element.attributes]
        .filter(({ name }) => name.startsWith("on")).map(({ name }) => `${element.tagName} ${name}`)),
      links: [...box.querySelectorAll("article a[href], article [*|href]")].map((link) => ({
        href: link.getAttribute("href"), rel: link.rel, target: link.target })),
      images: [...box.querySelectorAll("article img")].map(({ src }) => src),
      ids: ["content", "app"].filter((id) => document.querySelectorAll(`#${id}`).length > 1),
    };
  });
  assert.equal(found.pwned, null);
  assert.deepEqual(found.elements, []);
  assert.deepEqual(found.handlers, []);
  assert.deepEqual(found.ids, []);
  for (const { href, rel, target } of found.links) {
    assert.match(href, ALLOWED_SCHEMES);
    assert.match(rel, /noopener/);
    assert.equal(target, "_blank");
  }
  for (const source of found.images) assert.match(source, /^(data:image\/(png|jpe?g|gif|webp)|blob:)/);
}

const blocks = (content, number) => [
  { id: `u${number}`, parent: null, role: "user", content: "Say something", status: "done" },
  { id: `a${number}`, parent: `u${number}`, role: "assistant", content, reasoning: content.slice(0, 5000),
    status: "done", model: content.slice(0, 100) },
  { id: `v${number}`, parent: `a${number}`, role: "user", content: content.slice(0, 200_000), status: "done" },
  { id: `b${number}`, parent: `v${number}`, role: "assistant", content: "THE END", status: "done" },
];

let number = 0;
for (const [name, content] of Object.entries(HOSTILE)) {
  test(`${name}: nothing executes, the page is usable`, () => it.visit(async (context) => {
    number += 1;
    const { id } = await it.server.api("POST", "/v1/history", {
      title: content.slice(0, 150).replace(/[\p{Cc}\p{Cs}]/gu, " "), messages: blocks(content, number),
    });
    const page = await openPage(context, it.server, `/chat/${id}`);
    await page.getByText("THE END").waitFor();
    await page.locator("main details summary").first().click().catch(() => {});
    await harmless(page);
    await fitsAcross(page, name);
    await (await field(page)).fill("Can I still write?");
    assert.equal(await (await field(page)).inputValue(), "Can I still write?");
  }));
}

test("messages that another client has stored in another form leave the others usable", () => it.visit(async (context) => {
  const call = { id: "c", type: "function", function: null };
  const said = [
    { role: "assistant", content: null, tool_calls: [{}, call, { function: { name: {}, arguments: [1] } }] },
    { role: "tool", content: [{ type: "text", text: "42 degrees" }], tool_call_id: "c" },
    { role: "assistant", content: "Tokens", data: { tokens: [null], timings: 7, usage: "x", error: { message: {} }, reasoning_ms: "1" } },
    { role: "assistant", content: [{ type: "text", text: { x: 1 } }, { type: "text" }], data: { error: true, timings: { predicted_n: {} } } },
    { role: "user", content: [{ type: "image_url", image_url: 7 }, { type: "text", text: 5 }] },
    { role: "assistant", content: "Breaks", reasoning: "x", data: { reasoning_ms: 1e308, timings: { predicted_n: 5, predicted_per_second: "fast" } } },
    { role: "assistant", content: "THE END" },
  ];
  const messages = said.map((one, n) => ({ id: `o${n}`, parent: n ? `o${n - 1}` : null, ...one }));
  const { id } = await it.server.api("POST", "/v1/history", { title: "Odd", messages });
  const page = await openPage(context, it.server, `/chat/${id}`);
  await page.getByText("THE END").waitFor();
  await page.getByText("42 degrees").waitFor({ state: "attached" });
  for (const one of await page.locator("main details summary").all()) await one.click();
  await page.getByText("42 degrees").waitFor();
  await (await field(page)).fill("Can I still write?");
}));

test("a message that cannot be shown leaves the others usable", () => it.visit(async (context) => {
  context.watch.allow(/It broke\./);
  await context.addInitScript(() => {
    const { startsWith } = String.prototype;
    String.prototype.startsWith = function broken(...given) {
      if (String(this) === "Break me") throw new Error("It broke.");
      return startsWith.apply(this, given);
    };
  });
  const messages = [{ id: "b0", role: "assistant", content: "Break me" }, { id: "b1", parent: "b0", role: "assistant", content: "THE END" }];
  const { id } = await it.server.api("POST", "/v1/history", { title: "Broken", messages });
  const page = await openPage(context, it.server, `/chat/${id}`);
  await page.getByText("THE END").waitFor();
  await page.getByRole("alert").getByText("It broke.").waitFor();
  await page.getByText("Break me", { exact: true }).waitFor();
  await (await field(page)).fill("Can I still write?");
}));

test("hostile text that streams does not execute at any moment", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "hostile");
  await ask(page, "Hello <script>window.__pwned = 20</script>");
  await (await lastAnswer(page)).getByText("the end of it.").waitFor();
  await harmless(page);
  await choose(page, "writer");
  await ask(page, "Is it still usable?");
  await (await lastAnswer(page)).getByRole("heading", { name: "A heading" }).waitFor();
}));
