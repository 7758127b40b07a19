// Conversations: answers, stop, versions, a reload, two tabs, images, tools.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { openPage } from "../lib/browser.mjs";
import {
  answers, ask, button, choose, field, finished, idOf, lastAnswer, newChat, questions, send, stored,
} from "../lib/chat.mjs";
import { text } from "../lib/servers.mjs";
import { suite } from "../lib/suite.mjs";

const it = suite();

test("a question is answered, drawn, listed, and there after a reload", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "writer");
  await ask(page, "Write something with a table, please");
  const answer = await lastAnswer(page);
  await answer.getByRole("heading", { name: "A heading" }).waitFor();
  await answer.getByRole("cell", { name: "two", exact: true }).waitFor();
  await answer.locator("math").first().waitFor();
  const link = answer.getByRole("link", { name: "link" });
  assert.equal(await link.getAttribute("target"), "_blank");
  assert.match(await link.getAttribute("rel"), /noopener/);
  assert.match(await answer.locator("pre").innerText(), /return 42/);
  const id = await idOf(page);
  await stored(it.server, id, ([, said]) => said?.status === "done");
  const side = page.getByRole("complementary");
  await side.getByText("Write something with a table").first().waitFor();
  await page.reload();
  await (await lastAnswer(page)).getByRole("heading", { name: "A heading" }).waitFor();
  assert.equal(await idOf(page), id);
}));

test("code is copied with its button", () => it.visit(async (context) => {
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  const page = await newChat(context, it.server, "writer");
  await ask(page, "Write code");
  const block = (await lastAnswer(page)).locator("figure, div").filter({ has: page.locator("pre") }).last();
  await block.getByRole("button", { name: await text("app.copy") }).first().click();
  await page.waitForFunction(() => navigator.clipboard.readText());
  const copied = await page.evaluate(() => navigator.clipboard.readText());
  assert.equal(copied.trim(), "def answer():\n    return 42");
}));

test("an answer is stopped and continued", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "talker");
  await send(page, "Talk");
  const answer = await lastAnswer(page);
  await answer.getByText("Sentence number 5 ").waitFor();
  await (await button(page, "chat.stop")).click();
  await answer.getByText(await text("chat.state.stopped")).waitFor();
  const said = await finished(page);
  assert.ok(!said.includes("Sentence number 399"), "it was not stopped");
  const id = await idOf(page);
  const messages = await stored(it.server, id, ([, last]) => last?.status === "stopped");
  assert.match(messages[1].content, /^Sentence number 0 .*Sentence number 5/);
  await (await button(page, "chat.continue")).click();
  await (await lastAnswer(page)).getByText("Sentence number 60 ").waitFor();
  await (await button(page, "chat.stop")).click();
  await finished(page);
}));

test("a changed message begins a branch; both versions stay", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "writer");
  await ask(page, "The first question");
  await (await questions(page)).first().hover();
  await (await button(page, "chat.edit")).first().click();
  const edit = page.getByRole("textbox", { name: await text("chat.edit_label"), exact: true });
  assert.equal(await edit.inputValue(), "The first question");
  await edit.fill("Another question");
  await edit.press("Enter");
  await (await questions(page)).getByText("Another question").waitFor();
  await finished(page);
  const versions = page.getByRole("group", { name: await text("chat.branches") }).first();
  await versions.getByText("2/2").waitFor();
  await (await button(versions, "chat.previous_branch")).click();
  await (await questions(page)).getByText("The first question").waitFor();
  assert.equal(await (await questions(page)).count(), 1);
  const id = await idOf(page);
  const messages = await stored(it.server, id, (all) => all.length === 4);
  assert.deepEqual(messages.filter(({ role }) => role === "user").map(({ parent }) => parent), [null, null]);
}));

test("another answer is another version", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "writer");
  await ask(page, "Once");
  await (await button(page, "chat.retry")).first().click();
  await page.getByText("2/2").waitFor();
  await finished(page);
  await stored(it.server, await idOf(page), (all) => all.length === 3);
}));

test("a reload while an answer streams keeps what has come, and the draft", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "talker");
  await send(page, "Talk again");
  await (await lastAnswer(page)).getByText("Sentence number 5 ").waitFor();
  await (await field(page)).fill("My next question");
  const id = await idOf(page);
  await page.reload();
  const answer = await lastAnswer(page);
  await answer.getByText("Sentence number 5 ").waitFor();
  await answer.getByText(await text("chat.state.interrupted")).waitFor();
  assert.equal(await (await field(page)).inputValue(), "My next question");
  assert.equal(await idOf(page), id);
  await (await button(page, "chat.continue")).click();
  await (await lastAnswer(page)).getByText("Sentence number 60 ").waitFor();
  await (await button(page, "chat.stop")).click();
  await finished(page);
}));

test("two tabs of one conversation lose nothing", () => it.visit(async (context) => {
  const first = await newChat(context, it.server, "writer");
  await ask(first, "From the first tab");
  const id = await idOf(first);
  await stored(it.server, id, (all) => all[1]?.status === "done");
  const second = await openPage(context, it.server, `/chat/${id}`);
  await (await questions(second)).getByText("From the first tab").waitFor();
  await choose(second, "writer");
  await Promise.all([ask(first, "Again from the first"), ask(second, "Now from the second")]);
  const messages = await stored(it.server, id, (all) => all.length === 6
    && all.every(({ status }) => status === "done"));
  const asked = messages.filter(({ role }) => role === "user").map(({ content }) => content);
  assert.deepEqual(asked.sort(), ["Again from the first", "From the first tab", "Now from the second"]);
  for (const page of [first, second]) {
    await page.reload();
    await (await questions(page)).getByText("From the first tab").waitFor();
  }
}));

test("what one tab says, the other shows", () => it.visit(async (context) => {
  const first = await newChat(context, it.server, "writer");
  await ask(first, "Hello from here");
  const second = await openPage(context, it.server, `/chat/${await idOf(first)}`);
  await (await questions(second)).getByText("Hello from here").waitFor();
  await ask(first, "And one more");
  await (await questions(second)).getByText("And one more").waitFor();
}));

test("images are chosen and pasted, seen and sent", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "seeing");
  const data = (await readFile(it.server.picture)).toString("base64");
  // The list of conversations has a field for files too.
  await page.locator('input[type="file"][accept="image/*"]').setInputFiles(it.server.picture);
  const attached = page.getByRole("button", { name: await text("chat.remove_image") });
  await attached.first().waitFor();
  await (await field(page)).evaluate((area, base64) => {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
    area.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true }));
  }, data);
  await attached.nth(1).waitFor();
  await attached.nth(1).click();
  await ask(page, "What is this?");
  const picture = (await questions(page)).first().locator("img");
  assert.ok(await picture.evaluate((image) => image.complete && image.naturalWidth > 0));
  const [asked] = await stored(it.server, await idOf(page), (all) => all[1]?.status === "done");
  assert.equal(asked.content.filter(({ type }) => type === "image_url").length, 1);
  assert.equal(await attached.count(), 0);
}));

test("a model without eyes is offered no images", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "writer");
  await choose(page, "writer");
  assert.equal(await (await button(page, "chat.attach")).count(), 0);
}));

test("a tool is called, its result given, and the reasoning is collapsed", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "thinker");
  await (await button(page, "chat.settings")).click();
  const tool = { name: "get_weather", description: "The weather of a city",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } };
  const tools = page.getByRole("textbox", { name: await text("chat.tools") });
  await tools.fill("[{");
  await page.getByText(await text("chat.tools_wrong")).waitFor();
  await tools.fill(JSON.stringify([tool]));
  await (await button(page, "chat.use_settings")).click();
  await send(page, "What is the weather in Oslo?");
  const call = page.getByRole("list", { name: await text("chat.calls") });
  await call.getByText("get_weather").waitFor();
  await call.getByText("Oslo").waitFor();
  const thought = page.getByText("The user asks for the weather");
  assert.equal(await thought.count(), 0);
  await (await lastAnswer(page)).locator("summary").first().click();
  await thought.waitFor();
  const result = page.getByRole("textbox", { name: /get_weather/ });
  await result.fill("rain");
  await (await button(page, "chat.give_results")).click();
  await (await lastAnswer(page)).getByText("It rains in Oslo.").waitFor();
  await finished(page);
  const messages = await stored(it.server, await idOf(page), (all) => all.at(-1)?.status === "done");
  assert.deepEqual(messages.map(({ role }) => role), ["user", "assistant", "tool", "assistant"]);
}));

test("an answer's tokens are coloured by their probability", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "writer");
  await (await button(page, "chat.probabilities")).click();
  await ask(page, "Colours, please");
  const tokens = page.locator("[data-token]");
  assert.ok(await tokens.count() > 10);
  await tokens.nth(3).hover();
  await page.getByRole("button", { name: await text("chat.open_lab") }).waitFor();
}));

test("a message is written and an answer stopped with the keyboard alone", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "talker");
  await page.locator("body").press("Tab");
  for (let steps = 0; steps < 60; steps += 1) {
    const name = await page.evaluate(() => document.activeElement?.getAttribute("aria-label"));
    if (name === await text("chat.message_label")) break;
    await page.keyboard.press("Tab");
  }
  await page.keyboard.type("Talk");
  await page.keyboard.press("Enter");
  await (await lastAnswer(page)).getByText("Sentence number 2 ").waitFor();
  await page.keyboard.press("Escape");
  await (await lastAnswer(page)).getByText(await text("chat.state.stopped")).waitFor();
  const focus = await page.evaluate(() => document.activeElement?.getAttribute("aria-label"));
  assert.equal(focus, await text("chat.message_label"));
  assert.equal(await (await answers(page)).count(), 1);
}));

test("a screen reader hears sentences, not tokens", () => it.visit(async (context) => {
  await context.addInitScript(() => {
    window.heard = [];
    document.addEventListener("DOMContentLoaded", () => {
      new MutationObserver(() => {
        const said = document.querySelector('[role="log"]')?.textContent;
        if (said && said !== window.heard.at(-1)) window.heard.push(said);
      }).observe(document, { childList: true, subtree: true, characterData: true });
    });
  });
  const page = await newChat(context, it.server, "talker");
  await send(page, "Talk");
  await (await lastAnswer(page)).getByText("Sentence number 20 ").waitFor();
  await (await button(page, "chat.stop")).click();
  await finished(page);
  const heard = await page.evaluate(() => window.heard);
  assert.ok(heard.length > 1, "nothing was said");
  for (const said of heard.slice(0, -1)) assert.match(said, /[.!?]$/);
}));
