// Chromium, and pages that are watched: every test fails if a page asked another host, threw an
// error, opened a dialog, or broke its Content Security Policy.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

export const WAIT = 30_000; // Nothing waits this long when all is well.

const FLAGS = [
  "--disable-gpu", "--disable-background-networking", "--disable-component-update",
  "--disable-sync", "--no-first-run", "--force-color-profile=srgb",
  // No name of another host can be looked up, as without a network.
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];

/** Start Chromium with an empty profile. */
export async function startBrowser(...more) {
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  assert.ok(existsSync(executablePath), `there is no Chromium at ${executablePath}`);
  const root = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
  return chromium.launch({ executablePath, headless: true, args: [...FLAGS, ...root, ...more] });
}

/** Chromium's line about a server that does not talk to other machines: the page asks it once. */
const PEERS_OFF = /status of 403 .*\/v1\/peers\)$/;

/** What pages of one context did that no page may do. */
class Watch {
  constructor(origin) {
    this.origin = origin;
    this.requests = [];
    this.faults = [];
    this.allowed = [PEERS_OFF];
  }

  /** Expect errors in the console, such as those that Chromium writes for status 401. */
  allow(...patterns) {
    this.allowed.push(...patterns);
  }

  fault(text) {
    if (!this.allowed.some((pattern) => pattern.test(text))) this.faults.push(text);
  }

  /** Fail if anything happened that may not. */
  check() {
    const foreign = this.requests.filter((url) => !url.startsWith(`${this.origin}/`)
      && !/^(data|blob):/.test(url));
    assert.deepEqual(foreign, [], "requests to other hosts");
    assert.deepEqual(this.faults, [], "errors of the page");
  }
}

/**
 * A browser context whose pages are watched.
 * @param {import("playwright-core").Browser} browser
 * @param {{url: string}} server
 * @param {object} options of Playwright's newContext; `remembered`: what the browser remembers, by
 *     name
 */
export async function openContext(browser, server, { remembered = {}, ...options } = {}) {
  const { origin } = new URL(server.url);
  const localStorage = Object.entries(remembered)
    .map(([name, value]) => ({ name: `offgrid.${name}`, value: JSON.stringify(value) }));
  const context = await browser.newContext({
    viewport: { width: 1280, height: 800 }, locale: "en-GB", reducedMotion: "reduce",
    storageState: { cookies: [], origins: [{ origin, localStorage }] }, ...options,
  });
  context.setDefaultTimeout(WAIT);
  const watch = new Watch(origin);
  context.on("request", (request) => watch.requests.push(request.url()));
  context.on("page", (page) => watchPage(page, watch));
  context.on("weberror", (error) => watch.fault(`error: ${error.error().stack}`));
  context.on("console", (message) => {
    if (message.type() !== "error") return;
    watch.fault(`console: ${message.text()} (${message.location().url})`);
  });
  context.on("dialog", (dialog) => {
    watch.fault(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  await context.exposeBinding("__reportViolation", (_, text) => watch.fault(text));
  await context.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => {
      window.__reportViolation(`policy: ${event.violatedDirective} ${event.blockedURI}`);
    });
  });
  return Object.assign(context, { watch });
}

function watchPage(page, watch) {
  page.on("crash", () => watch.fault("the page crashed"));
  page.on("websocket", (socket) => watch.requests.push(socket.url()));
}

/** Open a route such as "/chat" and wait until the page shows it. */
export async function openPage(context, server, route = "/chat") {
  const page = await context.newPage();
  await page.goto(`${server.url}/ui#${route}`);
  await shown(page);
  return page;
}

/** Wait until the page has drawn something. */
export async function shown(page) {
  await page.locator("main h1").waitFor();
}

/** Fail if the page scrolls sideways, and say which elements stick out. */
export async function fitsAcross(page, what) {
  const wide = await page.evaluate(() => {
    const width = document.documentElement.clientWidth;
    if (document.scrollingElement.scrollWidth <= width) return [];
    return [...document.querySelectorAll("body *")]
      .filter((element) => {
        const box = element.getBoundingClientRect();
        return box.width && (box.right > width + 1 || box.left < -1);
      })
      .slice(0, 8)
      .map((element) => `${element.tagName}.${element.className}`);
  });
  assert.deepEqual(wide, [], `${what} scrolls sideways`);
}
