// The list of conversations, and conversations that several tabs and devices have open.
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { accessible } from "../lib/axe.mjs";
import { fitsAcross, openContext, openPage } from "../lib/browser.mjs";
import { startServer, text } from "../lib/servers.mjs";
import { suite } from "../lib/suite.mjs";

const it = suite();
const PHONE = { viewport: { width: 320, height: 640 }, hasTouch: true, isMobile: true };
let count = 0;

/** Make a conversation; return it with its title, which no other one has. */
async function make(server = it.server, messages = [["user", "Do otters swim?"], ["assistant", "They do."]]) {
  const title = `Talk ${(count += 1)}`;
  const said = messages.map(([role, content], n) => ({ id: `m${n}`, parent: n ? `m${n - 1}` : null, role, content }));
  return server.api("POST", "/v1/history", { title, messages: said });
}

const read = (id) => it.server.api("GET", `/v1/history/${id}`);
const listed = async () => (await it.server.api("GET", "/v1/history?limit=100")).data.map(({ title }) => title);

async function list(page) {
  return page.getByRole("navigation", { name: await text("history.list"), exact: true });
}

async function link(page, title) {
  return (await list(page)).getByRole("link").filter({ hasText: title });
}

/** Choose an action of a conversation. */
async function act(page, title, action) {
  const row = (await list(page)).locator("li").filter({ hasText: title });
  await row.hover();
  await row.getByRole("button").click();
  await page.getByRole("menuitem", { name: await text(action), exact: true }).click();
}

/** Wait until something is so. */
async function eventually(condition, what) {
  for (let waited = 0; waited < 160; waited += 1) {
    if (await condition()) return;
    await new Promise((done) => { setTimeout(done, 50); });
  }
  assert.fail(`it never happened: ${what}`);
}

/** Import a file through the menu. */
async function bring(page, path) {
  await page.getByRole("button", { name: await text("history.files"), exact: true }).click();
  const [chooser] = await Promise.all([
    page.waitForEvent("filechooser"),
    page.getByRole("menuitem", { name: await text("history.import"), exact: true }).click(),
  ]);
  await chooser.setFiles(path);
}

/** What a download contains. */
async function downloaded(page, start) {
  const [download] = await Promise.all([page.waitForEvent("download"), start()]);
  return [download.suggestedFilename(), await readFile(await download.path(), "utf8")];
}

test("a conversation is opened, renamed and pinned", () => it.visit(async (context) => {
  const [{ id, title }, other] = [await make(), await make()];
  const page = await openPage(context, it.server);
  await (await link(page, title)).click();
  await page.getByText("Do otters swim?").waitFor();
  assert.equal(await (await link(page, title)).getAttribute("aria-current"), "page");
  await act(page, title, "history.rename");
  await page.getByRole("textbox", { name: await text("history.title"), exact: true }).fill("Water\tanimals ");
  await page.keyboard.press("Enter");
  await (await link(page, "Water animals")).waitFor();
  await page.getByRole("heading", { name: "Water animals" }).waitFor();
  await act(page, "Water animals", "history.pin");
  await eventually(async () => (await listed())[0] === "Water animals", "it is the first of the list");
  await page.reload();
  const names = (await list(page)).getByRole("link");
  await names.first().getByText("Water animals").waitFor();
  await (await link(page, other.title)).waitFor();
  await act(page, "Water animals", "history.unpin");
  await eventually(async () => (await read(id)).pinned === false, "it is not pinned any more");
}));

test("a search finds words of titles and messages", () => it.visit(async (context) => {
  const found = await make(it.server, [["user", "Where is the Straße?"]]);
  const other = await make();
  const page = await openPage(context, it.server);
  await (await link(page, other.title)).waitFor();
  const field = page.getByRole("searchbox", { name: await text("history.search"), exact: true });
  await field.fill("STRASSE where");
  await (await link(page, other.title)).waitFor({ state: "detached" });
  await (await link(page, found.title)).waitFor();
  await field.fill('nothing "like* it');
  await page.getByText(await text("history.none_found")).waitFor();
  await field.fill("");
  await (await link(page, other.title)).waitFor();
}));

test("a conversation is deleted after a question", () => it.visit(async (context) => {
  const [{ id, title }, other] = [await make(), await make()];
  const page = await openPage(context, it.server, `/chat/${id}`);
  await page.getByText("Do otters swim?").waitFor();
  await act(page, title, "history.delete");
  await page.getByRole("button", { name: await text("app.cancel"), exact: true }).click();
  await act(page, title, "history.delete");
  await page.getByRole("dialog").getByRole("button", { name: await text("history.delete"), exact: true }).click();
  await (await link(page, title)).waitFor({ state: "detached" });
  await page.waitForFunction(() => location.hash === "#/chat");
  await eventually(async () => !(await listed()).includes(title), "it is deleted");
  await (await link(page, other.title)).waitFor();
}));

test("what was deleted in another tab can be saved again", () => it.visit(async (context) => {
  const { id, title } = await make();
  const [first, second] = [await openPage(context, it.server, `/chat/${id}`), await openPage(context, it.server)];
  await first.getByText("They do.").waitFor();
  await act(second, title, "history.delete");
  await second.getByRole("dialog").getByRole("button", { name: await text("history.delete"), exact: true }).click();
  await first.getByRole("button", { name: await text("chat.save_again") }).click();
  await eventually(async () => (await listed()).includes(title), "it is there again");
  assert.deepEqual((await read(id)).messages.map(({ content }) => content), ["Do otters swim?", "They do."]);
}));

test("files are exported and imported again", () => it.visit(async (context) => {
  const { id, title } = await make();
  const page = await openPage(context, it.server);
  const before = (await read(id)).messages;
  for (const [action, end] of [["history.export_markdown", "md"], ["history.export_json", "json"]]) {
    const [name, content] = await downloaded(page, () => act(page, title, action));
    assert.equal(name, `${title.replace(" ", "-")}.${end}`);
    await it.server.api("DELETE", `/v1/history/${id}`);
    const path = join(tmpdir(), `${id}.${end}`);
    await writeFile(path, content);
    await bring(page, path);
    await eventually(async () => (await listed()).includes(title), "it is there again");
    await page.getByText(await text("history.imported")).first().waitFor();
    assert.deepEqual((await read(id)).messages, before);
  }
  await page.getByRole("button", { name: await text("history.files"), exact: true }).click();
  const [name, content] = await downloaded(page, async () =>
    page.getByRole("menuitem", { name: await text("history.export_all"), exact: true }).click());
  assert.equal(name, "history.json");
  assert.ok(JSON.parse(content).conversations.some((one) => one.id === id));
}));

test("a file that cannot be imported is named with the reason", () => it.visit(async (context) => {
  context.watch.allow(/status of 400/);
  const page = await openPage(context, it.server);
  const path = join(tmpdir(), `wrong-${process.pid}.md`);
  await writeFile(path, "no conversation");
  await bring(page, path);
  await page.getByText("line 1: the text has no heading").waitFor();
  await writeFile(path, "{ cut off");
  await bring(page, path);
  await page.getByText(await text("history.not_json")).waitFor();
}));

test("another device sees new messages, titles and conversations", () => it.visit(async (context) => {
  const { id } = await make();
  const page = await openPage(context, it.server, `/chat/${id}`);
  await page.getByText("They do.").waitFor();
  await it.server.api("POST", `/v1/history/${id}/messages`, {
    messages: [{ id: "late", parent: "m1", role: "user", content: "And in winter?" }],
  });
  await it.server.api("POST", `/v1/history/${id}`, { title: "Winter" });
  await page.getByText("And in winter?").waitFor();
  await page.getByRole("heading", { name: "Winter" }).waitFor();
}));

test("more conversations than one page", async () => {
  const server = await startServer();
  try {
    for (let n = 0; n < 35; n += 1) await server.api("POST", "/v1/history", { title: `Number ${n}` });
    const context = await openContext(it.browser, server);
    const page = await openPage(context, server);
    await (await link(page, "Number 34")).waitFor();
    assert.equal(await (await list(page)).getByRole("link").count(), 30);
    await page.getByRole("button", { name: await text("history.more"), exact: true }).click();
    await (await link(page, "Number 0")).first().waitFor();
    assert.equal(await (await list(page)).getByRole("link").count(), 35);
    context.watch.check();
    await context.close();
  } finally {
    await server.end();
  }
});

test("without a history nothing is stored, and the page says so", async () => {
  const server = await startServer({ flags: ["--no-history"] });
  try {
    const context = await openContext(it.browser, server);
    context.watch.allow(/status of 404/);
    const page = await openPage(context, server);
    await page.getByText(await text("history.off")).waitFor();
    const field = page.getByRole("textbox", { name: await text("chat.message_label"), exact: true });
    await field.fill("What is 7 + 5?");
    await field.press("Enter");
    await page.getByRole("article", { name: await text("chat.answer"), exact: true }).waitFor();
    await page.locator('article[aria-busy="true"]').waitFor({ state: "detached" });
    const left = await page.evaluate(() => JSON.stringify({ ...localStorage }));
    assert.doesNotMatch(left, /7 \+ 5/);
    context.watch.check();
    await context.close();
  } finally {
    await server.end();
  }
});

test("the keyboard reaches everything, and axe finds nothing serious", () => it.visit(async (context) => {
  const [first, second] = [await make(), await make()];
  const page = await openPage(context, it.server);
  await (await link(page, second.title)).focus();
  await page.keyboard.press("ArrowDown");
  assert.match(await page.evaluate(() => document.activeElement.innerText), new RegExp(first.title));
  await accessible(page, "the list");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.getByRole("menuitem").first().waitFor();
  await accessible(page, "the menu of a conversation");
  await page.keyboard.press("Enter");
  const field = page.getByRole("textbox", { name: await text("history.title"), exact: true });
  await field.waitFor();
  await page.keyboard.press("Escape");
  await field.waitFor({ state: "detached" });
  await page.waitForFunction(() => document.activeElement !== document.body);  // it is where it was
  await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Enter");
  await page.waitForFunction((id) => location.hash === `#/chat/${id}`, first.id);
}));

test("the list fits on a phone", () => it.visit(async (context) => {
  const { title } = await make();
  const page = await openPage(context, it.server);
  await page.getByRole("button", { name: await text("chat.conversations"), exact: true }).first().click();
  await (await link(page, title)).waitFor();
  await fitsAcross(page, "the list");
  await (await link(page, title)).click();
  await page.getByText("They do.").waitFor();
}, PHONE));
