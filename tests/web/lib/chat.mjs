// What people do on the chat page.
import assert from "node:assert/strict";
import { openPage } from "./browser.mjs";
import { text } from "./servers.mjs";

/** A new conversation with a model. */
export async function newChat(context, server, model) {
  const page = await openPage(context, server, "/chat");
  await choose(page, model);
  return page;
}

/** Choose the model that answers. */
export async function choose(page, model) {
  await page.getByLabel(await text("chat.model"), { exact: true }).selectOption(model);
}

export const field = async (page) =>
  page.getByRole("textbox", { name: await text("chat.message_label"), exact: true });

/** Write a message and send it with Enter. */
export async function send(page, words) {
  await (await field(page)).fill(words);
  await (await field(page)).press("Enter");
}

export const button = async (page, name) =>
  page.getByRole("button", { name: await text(name), exact: true });

export const answers = async (page) =>
  page.getByRole("article", { name: await text("chat.answer"), exact: true });
export const questions = async (page) =>
  page.getByRole("article", { name: await text("chat.you"), exact: true });

/** The last answer. */
export const lastAnswer = async (page) => (await answers(page)).last();

/** Wait until no answer streams, and return the text of the last one. */
export async function finished(page) {
  const answer = await lastAnswer(page);
  await answer.waitFor();
  await (await button(page, "chat.stop")).waitFor({ state: "detached" });
  await page.locator('article[aria-busy="true"]').waitFor({ state: "detached" });
  return answer.innerText();
}

/** Send a message and wait for the whole answer. */
export async function ask(page, words) {
  const before = await (await answers(page)).count();
  await send(page, words);
  await (await answers(page)).nth(before).waitFor();
  return finished(page);
}

/** Wait until the address has the id of the conversation; return it. */
export async function idOf(page) {
  await page.waitForFunction(() => /^#\/chat\/./.test(location.hash));
  return page.evaluate(() => decodeURIComponent(location.hash.slice("#/chat/".length)));
}

/** Wait until the server's history of a conversation fulfils a condition; return its messages. */
export async function stored(server, id, condition) {
  for (let waited = 0; waited < 300; waited += 1) {
    const { messages } = await server.api("GET", `/v1/history/${id}`);
    if (condition(messages)) return messages;
    await new Promise((done) => { setTimeout(done, 50); });
  }
  assert.fail("the history never fulfilled the condition");
}
