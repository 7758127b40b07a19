// Writing on the chat page: drafts, settings, presets, the camera, and answers that go on elsewhere.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { openContext, openPage, startBrowser } from "../lib/browser.mjs";
import { ask, button, choose, field, finished, idOf, lastAnswer, newChat, questions, send, stored } from "../lib/chat.mjs";
import { text } from "../lib/servers.mjs";
import { suite } from "../lib/suite.mjs";

const it = suite();

/** Wait until the field for messages has the focus. */
async function isFocused(page) {
  const label = await text("chat.message_label");
  await page.waitForFunction((name) => document.activeElement?.getAttribute("aria-label") === name, label);
}

/** Open the settings of the conversation. */
async function openSettings(page) {
  await (await button(page, "chat.settings")).click();
  return page.getByRole("dialog");
}

/** The bodies of the requests for answers. */
function requests(page) {
  const bodies = [];
  page.on("request", (request) => {
    if (request.url().endsWith("/v1/chat/completions")) bodies.push(request.postDataJSON());
  });
  return bodies;
}

test("the button that stops does not send the draft", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "talker");
  await send(page, "Talk");
  await (await lastAnswer(page)).getByText("Sentence number 3 ").waitFor();
  await (await field(page)).fill("Not yet");
  await (await button(page, "chat.stop")).click();
  await finished(page);
  assert.equal(await (await field(page)).inputValue(), "Not yet");
  assert.equal(await (await questions(page)).count(), 1);
}));

test("each conversation has its own draft", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "writer");
  await ask(page, "The first conversation");
  const first = await idOf(page);
  await (await field(page)).fill("A draft of the first");
  await page.evaluate(() => { location.hash = "#/chat"; });
  await page.waitForFunction(() => !document.querySelector("article"));
  assert.equal(await (await field(page)).inputValue(), "");
  await (await field(page)).fill("A draft of a new one");
  await page.evaluate((id) => { location.hash = `#/chat/${id}`; }, first);
  await (await questions(page)).getByText("The first conversation").waitFor();
  assert.equal(await (await field(page)).inputValue(), "A draft of the first");
  await page.reload();
  await (await questions(page)).getByText("The first conversation").waitFor();
  assert.equal(await (await field(page)).inputValue(), "A draft of the first");
}));

/** Paste a picture of noise, which no format makes small. */
const pasteLarge = async (page) => (await field(page)).evaluate(async (area) => {
  const canvas = new OffscreenCanvas(1400, 1400);
  const pixels = new ImageData(1400, 1400);
  for (let at = 0; at < pixels.data.length; at += 65_536) crypto.getRandomValues(pixels.data.subarray(at, at + 65_536));
  for (let at = 3; at < pixels.data.length; at += 4) pixels.data[at] = 255;
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  const transfer = new DataTransfer();
  transfer.items.add(new File([await canvas.convertToBlob()], "noise.png", { type: "image/png" }));
  area.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true }));
});

/** Wait until the browser remembers so many large values. */
const remembers = (page, count) => page.waitForFunction((wanted) => new Promise((resolve) => {
  indexedDB.open("offgrid").onsuccess = ({ target: { result: found } }) => {
    found.transaction("large").objectStore("large").count().onsuccess = (event) => {
      found.close();
      resolve(event.target.result === wanted);
    };
  };
}), count);

test("a draft keeps a large image, until it is sent", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "seeing");
  await (await field(page)).fill("What is this?");
  await pasteLarge(page);
  const attached = page.getByRole("button", { name: await text("chat.remove_image") });
  await attached.waitFor();
  await remembers(page, 1);
  await page.reload();
  await attached.waitFor();
  assert.ok(await page.locator(".attachment img").evaluate((image) => image.src.length > 1_000_000));
  await (await field(page)).press("End");
  await (await field(page)).pressSequentially(" Look!");
  await choose(page, "seeing");
  await (await field(page)).press("Enter");
  await (await questions(page)).getByText("What is this? Look!").waitFor();
  await remembers(page, 0);
  await page.reload();
  await (await questions(page)).first().waitFor();
  assert.equal(await attached.count(), 0);
}));

test("an answer goes on while another conversation is shown", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "talker");
  await send(page, "Talk in the background");
  await (await lastAnswer(page)).getByText("Sentence number 3 ").waitFor();
  const id = await idOf(page);
  await page.evaluate(() => { location.hash = "#/chat"; });
  await page.waitForFunction(() => !document.querySelector("article"));
  await stored(it.server, id, ([, said]) => said?.content.includes("Sentence number 12 "));
  await page.evaluate((address) => { location.hash = `#/chat/${address}`; }, id);
  await (await lastAnswer(page)).getByText("Sentence number 12 ").waitFor();
  await (await button(page, "chat.stop")).click();
  await finished(page);
  await stored(it.server, id, ([, said]) => said?.status === "stopped");
}));

test("a continued answer is one version", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "talker");
  const dialog = await openSettings(page);
  await dialog.getByLabel(await text("chat.parameters.max_tokens")).fill("5");
  await (await button(dialog, "chat.use_settings")).click();
  const begun = await ask(page, "Say a little");
  assert.match(begun, /^[^]*Sentence number 0/);
  const bodies = requests(page);
  await (await button(page, "chat.continue")).click();
  await page.waitForFunction(() => document.querySelectorAll('article[aria-busy="true"]').length === 0);
  await stored(it.server, await idOf(page), (all) => all.length === 3 && all[2].status === "done"
    && all[2].content.startsWith(all[1].content) && all[2].content.length > all[1].content.length);
  assert.equal(bodies[0].continue_final_message, true);
  assert.equal(await page.getByRole("group", { name: await text("chat.branches") }).count(), 0);
}));

test("a preset is saved, offered in a new chat, and sent", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "writer");
  const dialog = await openSettings(page);
  await dialog.getByLabel(await text("chat.system"), { exact: true }).fill("You are a pirate.");
  await dialog.getByLabel(await text("chat.parameters.temperature")).fill("0.25");
  await dialog.getByLabel(await text("chat.preset_name"), { exact: true }).fill("Pirate");
  await (await button(dialog, "chat.save_preset")).click();
  await (await button(dialog, "app.cancel")).click();
  await page.reload();
  await page.getByRole("button", { name: "Pirate" }).click();
  await choose(page, "writer");
  const bodies = requests(page);
  await ask(page, "Hello");
  assert.deepEqual(bodies[0].messages[0], { role: "system", content: "You are a pirate." });
  assert.equal(bodies[0].temperature, 0.25);
  const { settings } = await it.server.api("GET", `/v1/history/${await idOf(page)}`);
  assert.equal(settings.system, "You are a pirate.");
}));

test("a setting that is out of range is not used", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "writer");
  const dialog = await openSettings(page);
  const temperature = dialog.getByLabel(await text("chat.parameters.temperature"));
  await temperature.fill("3");
  await dialog.getByText(await text("chat.out_of_range")).waitFor();
  assert.equal(await temperature.getAttribute("aria-invalid"), "true");
  assert.ok(await (await button(dialog, "chat.use_settings")).isDisabled());
  await temperature.fill("0.5");
  assert.ok(await (await button(dialog, "chat.use_settings")).isEnabled());
}));

test("the arrow up changes the last message", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "writer");
  await ask(page, "Once");
  await (await field(page)).press("ArrowUp");
  const edit = page.getByRole("textbox", { name: await text("chat.edit_label"), exact: true });
  await edit.press("Escape");
  await edit.waitFor({ state: "detached" });
  assert.equal(await (await questions(page)).count(), 1);
  await isFocused(page);
}));

test("buttons that vanish leave the focus in the field", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "talker");
  await send(page, "Talk");
  await (await lastAnswer(page)).getByText("Sentence number 2 ").waitFor();
  await (await button(page, "chat.stop")).press("Enter");
  await finished(page);
  await isFocused(page);
  await (await button(page, "chat.continue")).press("Enter");
  await (await button(page, "chat.stop")).waitFor();
  await isFocused(page);
  await page.keyboard.press("Escape");
  await finished(page);
}));

test("Shift and Enter begin a new line", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "writer");
  await (await field(page)).pressSequentially("one");
  await (await field(page)).press("Shift+Enter");
  await (await field(page)).pressSequentially("two");
  assert.equal(await (await field(page)).inputValue(), "one\ntwo");
  assert.equal(await page.locator("article").count(), 0);
}));

test("an image for a model without eyes is refused", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "writer");
  await (await field(page)).evaluate((area) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File(["x"], "x.png", { type: "image/png" }));
    area.form.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
  });
  await page.getByText(await text("chat.no_vision")).first().waitFor();
  assert.equal(await page.locator(".attachment").count(), 0);
}));

test("arrow keys show the alternatives of each token, and Enter opens the lab", () => it.visit(async (context) => {
  const page = await newChat(context, it.server, "offgrid-starter");
  await (await button(page, "chat.probabilities")).click();
  await ask(page, "Tell me a story");
  const tokens = page.getByRole("group", { name: await text("chat.tokens_label") });
  await tokens.focus();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowRight");
  await page.getByRole("button", { name: await text("chat.open_lab") }).waitFor();
  assert.equal(await page.locator(".token-card tr").count(), 5);
  const said = await tokens.locator("[data-token]").allTextContents();
  await page.keyboard.press("Enter");
  const prompt = page.getByRole("textbox", { name: await text("lab.text"), exact: true });
  await prompt.waitFor();
  const handed = await prompt.inputValue();
  assert.match(handed, /Tell me a story/);
  assert.ok(handed.endsWith(said[0]), handed);
  assert.equal(await page.getByLabel(await text("lab.model"), { exact: true }).inputValue(), "offgrid-starter");
}));

let seeing;
before(async () => {
  seeing = await startBrowser("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream");
});
after(() => seeing?.close());

test("the camera takes a picture", async () => {
  const context = await openContext(seeing, it.server);
  await context.grantPermissions(["camera"]);
  const page = await openPage(context, it.server, "/chat");
  await choose(page, "seeing");
  await (await button(page, "chat.camera")).click();
  await (await button(page, "chat.take")).click();
  await page.locator(".attachment img").waitFor();
  assert.match(await page.locator(".attachment img").getAttribute("src"), /^data:image\/(jpeg|png);base64,/);
  context.watch.check();
  await context.close();
});
