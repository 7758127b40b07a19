// Other machines: two servers are paired on their pages, and use each other's models.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { accessible } from "../lib/axe.mjs";
import { fitsAcross, openContext, openPage } from "../lib/browser.mjs";
import { ask, newChat } from "../lib/chat.mjs";
import { pair, placeOf } from "../lib/peers.mjs";
import { startServer, text } from "../lib/servers.mjs";
import { suite } from "../lib/suite.mjs";

const it = suite({ models: false, peers: "kitchen" });
let workshop; // the other machine, which has the models

before(async () => { workshop = await startServer({ peers: "workshop" }); });
after(() => workshop?.end());

const press = async (place, name) => place.getByRole("button", { name: await text(name), exact: true }).click();
const machines = (page) => page.locator("section.peers");
const machine = (page, name) => machines(page).locator(".peer").filter({ hasText: name });

/** Open the page of the other machine in a context of its own browser profile. */
async function atWorkshop(run) {
  const context = await openContext(it.browser, workshop);
  try {
    await run(await openPage(context, workshop, "/machine"));
    context.watch.check();
  } finally {
    await context.close();
  }
}

/** Forget all machines on both sides. */
async function forgetAll() {
  for (const server of [it.server, workshop]) {
    const { data } = await server.api("GET", "/v1/peers");
    for (const { id } of data) await server.api("DELETE", `/v1/peers/${id}`);
  }
}

test("a server that talks to no other machine says how to let it", async () => {
  const alone = await startServer({ models: false });
  const context = await openContext(it.browser, alone);
  try {
    const page = await openPage(context, alone, "/machine");
    await machines(page).getByText(await text("peers.off")).waitFor();
    assert.equal(await machines(page).getByRole("button").count(), 0);
    context.watch.check();
  } finally {
    await context.close();
    await alone.end();
  }
});

test("one machine shows a code, it is entered at the other with the keyboard, and both know each other", () => it.visit(async (context) => {
  const page = await openPage(context, it.server, "/machine");
  await press(machines(page), "peers.pair");
  await press(page.getByRole("dialog"), "peers.open_code");
  const code = await page.getByRole("status", { name: await text("peers.code") }).innerText();
  assert.match(code, /^[0-9]{4}-[0-9]{4}$/);
  await page.getByRole("timer").waitFor();
  await accessible(page, "a pairing code");
  const place = await placeOf(it.server);
  await page.getByText(`offgrid peers pair ${place} ${code}`).waitFor();
  const told = page.getByText(await text("peers.paired")).first().waitFor();
  await atWorkshop(async (other) => {
    await machines(other).getByRole("button", { name: await text("peers.pair"), exact: true }).press("Enter");
    await other.getByRole("dialog").getByRole("tab").first().focus();
    await other.keyboard.press("ArrowRight");
    await other.getByRole("textbox", { name: await text("peers.address") }).focus();
    await other.keyboard.type(place);
    await other.keyboard.press("Tab");
    await other.keyboard.type(code);
    await accessible(other, "a code that is entered");
    await other.keyboard.press("Enter");
    await machine(other, "kitchen").getByText(await text("peers.state.connected")).waitFor();
    assert.equal(await other.getByRole("dialog").count(), 0);
  });
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await told;
  await machine(page, "workshop").getByText(await text("peers.state.connected")).waitFor();
  await machine(page, "workshop").locator("summary").click();
  await machine(page, "workshop").getByText("talker").waitFor();
  await accessible(page, "a machine that was paired");
}));

test("a wrong code pairs nothing, and says so", () => it.visit(async (context) => {
  context.watch.allow(/status of 4\d\d/);
  await forgetAll();
  const { code } = await workshop.api("POST", "/v1/peers/pair", {});
  const page = await openPage(context, it.server, "/machine");
  await press(machines(page), "peers.pair");
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("tab").nth(1).click();
  await press(dialog, "peers.pair");
  await dialog.getByText(await text("peers.fault.address")).waitFor();
  await dialog.getByRole("textbox", { name: await text("peers.address") }).fill(await placeOf(workshop));
  const wrong = String((Number(code.replace("-", "")) + 1) % 1e8).padStart(8, "0");
  await dialog.getByRole("textbox", { name: await text("peers.code") }).fill(wrong);
  await press(dialog, "peers.pair");
  await dialog.getByRole("alert").waitFor();
  assert.equal((await it.server.api("GET", "/v1/peers")).data.length, 0);
  await workshop.api("DELETE", "/v1/peers/pair");
}));

test("a code ends when its window is closed", () => it.visit(async (context) => {
  const page = await openPage(context, it.server, "/machine");
  await press(machines(page), "peers.pair");
  await press(page.getByRole("dialog"), "peers.open_code");
  await page.getByRole("timer").waitFor();
  const ended = page.waitForResponse((response) => response.request().method() === "DELETE");
  await page.keyboard.press("Escape");
  await ended;
  assert.equal((await it.server.api("GET", "/v1/peers/pair")).state, "closed");
}));

test("what a machine may use is changed, and it is forgotten after a question", () => it.visit(async (context) => {
  await forgetAll();
  await pair(it.server, workshop);
  const page = await openPage(context, it.server, "/machine");
  const peer = machine(page, "workshop");
  const choose = async (entry) => {
    await peer.getByRole("button", { name: await text("peers.actions") }).click();
    await page.getByRole("menuitem", { name: await text(entry) }).click();
  };
  await choose("peers.change");
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel(await text("keys.all_models")).uncheck();
  await press(dialog, "keys.save");
  await dialog.getByText(await text("keys.fault.models")).waitFor();
  await dialog.getByLabel("offgrid-starter").check();
  await dialog.getByText(await text("keys.limits")).click();
  await dialog.getByLabel(await text("keys.limit.requests_per_minute")).fill("30");
  await accessible(page, "what a machine may use");
  await press(dialog, "keys.save");
  await peer.getByRole("definition").getByText("offgrid-starter").waitFor();
  await peer.getByText("30 requests per minute").waitFor();
  await choose("peers.forget");
  await press(dialog, "app.cancel");
  await choose("peers.forget");
  await press(dialog, "peers.forget");
  await page.getByText(await text("peers.none")).waitFor();
  assert.equal((await it.server.api("GET", "/v1/peers")).data.length, 0);
}));

test("a model of another machine answers in the chat, and is copied here", () => it.visit(async (context) => {
  await forgetAll();
  await pair(it.server, workshop);
  const models = await openPage(context, it.server, "/models");
  const there = models.getByRole("article", { name: "workshop", exact: true });
  await there.getByText("writer").waitFor();
  await accessible(models, "models of another machine");
  const chat = await newChat(context, it.server, "writer");
  await chat.getByText(await text("chat.on_machine")).first().waitFor();
  assert.match(await ask(chat, "Write"), /A heading/);
  await models.getByRole("button", { name: "Copy writer to this machine" }).click();
  await models.getByText(await text("models.transfer.completed.import")).first().waitFor();
  await models.getByRole("article", { name: "writer", exact: true }).waitFor();
  await there.getByText("writer").waitFor({ state: "detached" });
}));

test("other machines fit a phone, in Arabic and in the dark", () => it.visit(async (context) => {
  await forgetAll();
  await pair(it.server, workshop);
  const page = await openPage(context, it.server, "/machine");
  await machine(page, "workshop").getByText(await text("peers.state.connected", "ar")).waitFor();
  await machine(page, "workshop").locator("summary").click();
  await accessible(page, "other machines, in Arabic");
  await fitsAcross(page, "other machines");
}, { viewport: { width: 320, height: 640 }, isMobile: true, hasTouch: true, colorScheme: "dark", remembered: { language: "ar" } }));
