// The server goes away and comes back: the page says so, keeps the draft, and goes on by itself.
import assert from "node:assert/strict";
import { test } from "node:test";
import { ask, field, finished, idOf, lastAnswer, newChat, questions, send } from "../lib/chat.mjs";
import { text } from "../lib/servers.mjs";
import { suite } from "../lib/suite.mjs";

const it = suite();
const AWAY = [/ERR_CONNECTION_REFUSED/, /ERR_INCOMPLETE_CHUNKED_ENCODING/, /ERR_EMPTY_RESPONSE/,
  /ERR_CONNECTION_RESET/, /status of 503/];

test("a restart keeps the draft and the conversation", () => it.visit(async (context) => {
  context.watch.allow(...AWAY);
  const page = await newChat(context, it.server, "writer");
  await ask(page, "Before the restart");
  const id = await idOf(page);
  await (await field(page)).fill("A draft");
  await it.server.stop();
  const banner = page.getByText(await text("app.away"));
  await banner.waitFor();
  assert.equal(await (await field(page)).inputValue(), "A draft");
  await it.server.restart();
  await banner.waitFor({ state: "detached" });
  assert.equal(await (await field(page)).inputValue(), "A draft");
  await page.reload();
  await (await questions(page)).getByText("Before the restart").waitFor();
  assert.equal(await (await field(page)).inputValue(), "A draft");
  await (await field(page)).press("Enter");
  await (await questions(page)).getByText("A draft").waitFor();
  await finished(page);
  assert.equal(await idOf(page), id);
}));

test("an answer that a crash cuts off is kept", () => it.visit(async (context) => {
  context.watch.allow(...AWAY);
  const page = await newChat(context, it.server, "talker");
  await send(page, "Talk");
  await (await lastAnswer(page)).getByText("Sentence number 5 ").waitFor();
  await it.server.end();
  await page.getByText(await text("app.away")).waitFor();
  await (await lastAnswer(page)).getByText("Sentence number 5 ").waitFor();
  await it.server.restart();
  await page.getByText(await text("app.away")).waitFor({ state: "detached" });
  await (await lastAnswer(page)).getByText("Sentence number 5 ").waitFor();
  const id = await idOf(page);
  for (let saved = false; !saved;) {
    const { messages } = await it.server.api("GET", `/v1/history/${id}`);
    saved = messages[1]?.status === "failed" && messages[1].content.includes("Sentence number 5 ");
    if (!saved) await page.waitForTimeout(100);
  }
  await page.reload();
  await (await lastAnswer(page)).getByText("Sentence number 5 ").waitFor();
}));
