// Nothing that a user writes is lost by accident, and a closed question does not come back.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import { openContext, openPage } from "../lib/browser.mjs";
import { ask, button, field, finished, idOf, lastAnswer, newChat, questions, send, stored } from "../lib/chat.mjs";
import { startServer, text } from "../lib/servers.mjs";
import { suite } from "../lib/suite.mjs";

const it = suite();
const others = {};

before(async () => {
  [others.keyed, others.forgetful] = await Promise.all([
    startServer({ keys: true, models: false }),
    startServer({ environ: { OFFGRID_HISTORY: "false" } }),
  ]);
});
after(() => Promise.all(Object.values(others).map((server) => server.end())));

/** Run a function in a new context of another server, then check what its pages did. */
async function visit(server, run, ...allowed) {
  const context = await openContext(it.browser, server);
  try {
    context.watch.allow(...allowed);
    await run(context);
    context.watch.check();
  } finally {
    await context.close();
  }
}

test("Escape closes a dialog and leaves the answer alone", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "talker");
  await send(page, "Talk");
  await (await lastAnswer(page)).getByText("Sentence number 2 ").waitFor();
  await (await button(page, "chat.settings")).click();
  const dialog = page.getByRole("dialog");
  await dialog.waitFor();
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  await (await lastAnswer(page)).getByText("Sentence number 12 ").waitFor();
  await (await field(page)).press("Escape");
  await finished(page);
}));

test("a message over a dialog is read and closed there", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "talker");
  await (await button(page, "chat.settings")).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("textbox", { name: await text("chat.preset_name"), exact: true }).fill("Mine");
  await (await button(dialog, "chat.save_preset")).click();
  const message = dialog.locator(".toast");
  await message.getByText("Mine").waitFor();
  await (await button(message, "app.close")).click();
  await message.waitFor({ state: "detached" });
  await dialog.waitFor();
}));

test("a conversation with a model that is gone says which one answers", () => it.visit(async (context) => {
  const { id } = await it.server.api("POST", "/v1/history", {
    title: "Old", settings: { model: "long-gone" },
    messages: [{ id: "only", parent: null, role: "user", content: "Hello!" }],
  });
  const page = await openPage(context, it.server, `/chat/${id}`);
  await page.getByText(/long-gone/).waitFor();
}));

test("a message waits until its conversation is read", () => it.visit(async (context) => {
  const messages = [["q", null, "user", "Do otters swim?"], ["a", "q", "assistant", "They do."]];
  const { id } = await it.server.api("POST", "/v1/history", {
    title: "Otters", messages: messages.map(([name, parent, role, content]) => ({ id: name, parent, role, content })),
  });
  let go;
  const gate = new Promise((done) => { go = done; });
  await context.route(`**/v1/history/${id}?**`, async (route) => {
    await gate;
    await route.continue();
  });
  const page = await openPage(context, it.server, `/chat/${id}`);
  await send(page, "And badgers?");
  assert.ok(await (await button(page, "chat.send")).isDisabled());
  assert.equal(await (await questions(page)).count(), 0);
  go();
  await (await questions(page)).getByText("Do otters swim?").waitFor();
  await (await field(page)).press("Enter");
  await (await questions(page)).getByText("And badgers?").waitFor();
  const all = await stored(it.server, id, (found) => found.length > 2);
  assert.equal(all[2].parent, "a");
  assert.equal((await it.server.api("GET", `/v1/history/${id}`)).title, "Otters");
}));

test("a duplicated tab knows that the answer is written by the other one", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "talker");
  await send(page, "Talk");
  await (await lastAnswer(page)).getByText("Sentence number 2 ").waitFor();
  await idOf(page);
  // A page that is opened so gets a copy of the tab's storage.
  const [copy] = await Promise.all([context.waitForEvent("page"), page.evaluate(() => { window.open(location.href); })]);
  await (await lastAnswer(copy)).getByText(await text("chat.elsewhere")).waitFor();
  assert.equal(await copy.getByText(await text("chat.state.interrupted")).count(), 0);
  await (await button(page, "chat.stop")).click();
  await finished(page);
  await (await lastAnswer(copy)).getByText(await text("chat.state.stopped")).waitFor();
}));

test("files are dropped anywhere, and none replaces the page", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "seeing");
  const data = (await readFile(it.server.picture)).toString("base64");
  const drop = (name, type) => page.locator(".chat-scroll").evaluate((element, file) => {
    const bytes = Uint8Array.from(atob(file.data), (letter) => letter.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], file.name, { type: file.type }));
    const event = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
    element.dispatchEvent(event);
    return event.defaultPrevented;
  }, { data, name, type });
  await (await button(page, "chat.attach")).waitFor();
  assert.ok(await drop("picture.png", "image/png"));
  await page.getByRole("button", { name: await text("chat.remove_image") }).waitFor();
  assert.ok(await drop("paper.pdf", "application/pdf"));
}));

test("without a history a conversation outlives a look at another page", () => visit(others.forgetful, async (context) => {
  const page = await newChat(context, others.forgetful, "writer");
  await ask(page, "Remember me");
  await page.getByText(await text("chat.not_stored")).waitFor();
  await idOf(page);
  await page.getByRole("link", { name: await text("app.page.settings"), exact: true }).click();
  await page.getByRole("heading", { name: await text("settings.look") }).waitFor();
  await page.goBack();
  await (await questions(page)).getByText("Remember me").waitFor();
}, /status of 404/));

test("a question for the key that was closed does not come back by itself", () => visit(others.keyed, async (context) => {
  const page = await openPage(context, others.keyed, "/settings");
  const dialog = page.getByRole("dialog", { name: await text("key.title") });
  await dialog.waitFor();
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  const banner = page.locator(".banner");
  await banner.waitFor();
  const refused = page.waitForResponse((response) => response.url().includes("/v1/models") && response.status() === 401);
  await page.getByRole("link", { name: await text("app.page.models"), exact: true }).click();
  await refused;
  await page.getByRole("main").getByRole("alert").first().waitFor(); // the error is shown
  assert.equal(await dialog.count(), 0);
  await banner.getByRole("link").click();
  await page.getByLabel(await text("key.label"), { exact: true }).fill(others.keyed.secret);
  await (await button(page, "key.use")).click();
  await banner.waitFor({ state: "detached" });
}, /status of 401/));

test("a key that is revoked while a message is sent is asked for once, and the message is answered", () => visit(others.keyed, async (context) => {
  const [gail, next] = [await others.keyed.createKey("gail"), await others.keyed.createKey("gail-2")];
  let isRevoked = false;
  await context.route("**/v1/chat/completions", async (route) => {
    if (!isRevoked) await others.keyed.revokeKey("gail");
    isRevoked = true;
    await route.continue();
  });
  const page = await openPage(context, others.keyed, "/chat");
  const dialog = page.getByRole("dialog", { name: await text("key.title") });
  const give = async (secret) => {
    await dialog.getByLabel(await text("key.label"), { exact: true }).fill(secret);
    await (await button(dialog, "key.use")).click();
    await dialog.waitFor({ state: "detached" });
  };
  await give(gail.secret);
  await page.getByLabel(await text("chat.model"), { exact: true }).waitFor();
  await send(page, "Are you still there?");
  await dialog.getByRole("alert").waitFor();
  await give(next.secret);
  assert.ok((await finished(page)).trim());
  assert.equal(await (await questions(page)).count(), 1);
  assert.equal(await dialog.count(), 0);
}, /status of (401|404)/));
