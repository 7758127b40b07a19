// How fast the web page is: node benchmarks/page.mjs [--json FILE]
//
// Measures in Chromium, against a server that it starts: the first paint with an empty cache, the bytes
// of the first load as they are sent, and the longest task while a conversation of 200 messages is
// scrolled. Exits with 1 if a number is over its limit. Needs what the browser tests need
// (tests/README.md), and an idle machine.
import { writeFile } from "node:fs/promises";
import { withServers } from "../tests/web/lib/control.mjs";
import { longConversation } from "../tests/web/lib/long_conversation.mjs";
import { openContext, shown, startBrowser } from "../tests/web/lib/browser.mjs";
import { startServer } from "../tests/web/lib/servers.mjs";

const ROUNDS = 9;
const MESSAGES = 200;

const median = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1];

/** First paint in milliseconds and bytes sent, for one visit with an empty cache. */
async function visit(browser, server) {
  const context = await openContext(browser, server);
  const page = await context.newPage();
  const session = await context.newCDPSession(page);
  await session.send("Network.enable");
  let bytes = 0;
  session.on("Network.loadingFinished", (event) => { bytes += event.encodedDataLength; });
  await page.goto(`${server.url}/ui`);
  await shown(page);
  await page.waitForLoadState("networkidle");
  const paint = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0]
    .startTime);
  await context.close();
  context.watch.check();
  return { paint, bytes };
}

/**
 * Run a function while Chromium records the tasks of all main threads of pages.
 * @returns {Promise<{wall: number, processor: number}>} of the longest one, in milliseconds. Other
 *     programs on the machine make the first one longer, and not the second.
 */
async function longestTask(browser, run) {
  const session = await browser.newBrowserCDPSession();
  const events = [];
  session.on("Tracing.dataCollected", ({ value }) => events.push(...value));
  await session.send("Tracing.start", {
    transferMode: "ReportEvents", traceConfig: { includedCategories: ["toplevel"] },
  });
  await run();
  const ended = new Promise((done) => { session.once("Tracing.tracingComplete", done); });
  await session.send("Tracing.end");
  await ended;
  const thread = ({ pid, tid }) => `${pid} ${tid}`;
  const main = new Set(events.filter(({ name, args }) => name === "thread_name"
    && args.name === "CrRendererMain").map(thread));
  const tasks = events.filter((event) => event.name.endsWith("RunTask") && event.ph === "X"
    && main.has(thread(event)));
  if (!tasks.length) throw new Error("Chromium recorded no tasks");
  return {
    wall: Math.max(...tasks.map(({ dur }) => dur)) / 1000,
    processor: Math.max(...tasks.map(({ tdur }) => tdur)) / 1000,
  };
}

/** The element that scrolls the messages, as an id for the debugger. */
const markScroller = (page) => page.evaluate(() => {
  const scrolls = [document.scrollingElement, ...document.querySelectorAll("*")].filter((one) =>
    one.scrollHeight > one.clientHeight + 1000 && one.clientHeight > 200
      && (one === document.scrollingElement || /auto|scroll/.test(getComputedStyle(one).overflowY)));
  window.scroller = scrolls[0];
  return scrolls[0]?.scrollHeight ?? 0;
});

/** Scroll through a long conversation with the wheel; the longest tasks of opening and scrolling. */
async function scroll(browser, server) {
  const { id } = await server.api("POST", "/v1/history", longConversation(MESSAGES));
  const context = await openContext(browser, server);
  const page = await context.newPage();
  const opening = await longestTask(browser, async () => {
    await page.goto(`${server.url}/ui#/chat/${id}`);
    await page.getByText(`Answer ${MESSAGES - 1}.`).waitFor();
    await page.waitForLoadState("networkidle");
  });
  const height = await markScroller(page);
  if (!height) throw new Error("nothing scrolls: the conversation is not shown");
  await page.mouse.move(640, 400);
  let frames = 0;
  const scrolling = await longestTask(browser, async () => {
    frames = await wheelTo(page, -1) + await wheelTo(page, 1);
  });
  const shownFirst = await page.getByText("Question 0:").count();
  await context.close();
  if (!shownFirst) throw new Error("the first message was not reached");
  return { opening, scrolling, height, frames };
}

/** Turn the wheel until nothing moves any more; the number of frames it took. */
async function wheelTo(page, direction) {
  let frames = 0;
  for (let still = 0; still < 10; frames += 1) {
    const before = await page.evaluate(() => window.scroller.scrollTop);
    await page.mouse.wheel(0, direction * 400);
    await page.evaluate(() => new Promise((done) => requestAnimationFrame(
      () => requestAnimationFrame(done),
    )));
    still = await page.evaluate(() => window.scroller.scrollTop) === before ? still + 1 : 0;
  }
  return frames;
}

async function measure() {
  const server = await startServer();
  const browser = await startBrowser();
  try {
    await visit(browser, server); // The server compresses its files at their first use.
    const visits = [];
    for (let round = 0; round < ROUNDS; round += 1) visits.push(await visit(browser, server));
    return { visits, ...await scroll(browser, server), version: browser.version() };
  } finally {
    await browser.close();
  }
}

const found = await withServers(measure);
const paints = found.visits.map(({ paint }) => paint);
const rows = [
  ["first paint, median", median(paints), 500, "ms"],
  ["first paint, slowest", Math.max(...paints), null, "ms"],
  ["first load, compressed", Math.max(...found.visits.map(({ bytes }) => bytes)) / 1000, 300, "kB"],
  [`opening ${MESSAGES} messages, longest task`, found.opening.wall, null, "ms"],
  ["of these on the processor", found.opening.processor, null, "ms"],
  [`scrolling ${MESSAGES} messages, longest task`, found.scrolling.wall, 100, "ms"],
  ["of these on the processor", found.scrolling.processor, 100, "ms"],
].map(([name, value, limit, unit]) => ({ name, value: Math.round(value), limit, unit }));
const file = process.argv[process.argv.indexOf("--json") + 1];
if (process.argv.includes("--json")) {
  await writeFile(file, `${JSON.stringify({ rows, ...found }, null, 2)}\n`);
}
console.log(`Chromium ${found.version}; ${found.frames} turns of the wheel.\n`);
console.log("| | Measured | Limit |\n|---|---|---|");
for (const { name, value, limit, unit } of rows) {
  console.log(`| ${name} | ${value} ${unit} | ${limit === null ? "" : `${limit} ${unit}`} |`);
}
process.exitCode = rows.some(({ value, limit }) => limit !== null && value >= limit) ? 1 : 0;
