// Takes the pictures of docs/UI.md: node tests/web/screenshots.mjs [FOLDER] [--png] [--only=NAME]
//
// Every page, on a desktop and a phone, some on a tablet, light and dark, as WebP. Needs what the
// browser tests need (tests/README.md).
import { mkdir, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { openContext, openPage, startBrowser } from "./lib/browser.mjs";
import { withServers } from "./lib/control.mjs";
import { SCENES } from "./lib/scenes.mjs";
import { startServer } from "./lib/servers.mjs";

const words = process.argv.slice(2);
const format = words.includes("--png") ? "png" : "webp";
const only = words.find((word) => word.startsWith("--only="))?.slice(7);
const folder = words.find((word) => !word.startsWith("--"))
  ?? fileURLToPath(new URL("../../docs/screenshots", import.meta.url));

const SIZES = {
  desktop: { viewport: { width: 1280, height: 800 } },
  tablet: { viewport: { width: 820, height: 1180 }, isMobile: true, hasTouch: true },
  phone: { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true },
};

/** Save what a page shows. */
async function take(page, name) {
  const session = await page.context().newCDPSession(page);
  const { data } = await session.send("Page.captureScreenshot", {
    format, ...(format === "webp" ? { quality: 72 } : {}),
  });
  await writeFile(`${folder}/${name}.${format}`, Buffer.from(data, "base64"));
}

async function takeAll() {
  const server = await startServer({ keys: true, peers: "kitchen" });
  const browser = await startBrowser();
  try {
    for (const { name, route, prepare, act, onTablet } of SCENES) {
      if (only && only !== name) continue;
      const id = await prepare?.(server);
      for (const [size, options] of Object.entries(SIZES)) {
        if (size === "tablet" && !onTablet) continue;
        for (const colorScheme of ["light", "dark"]) {
          const context = await openContext(browser, server, {
            ...options, colorScheme, remembered: { key: server.secret },
          });
          const page = await openPage(context, server, typeof id === "string" ? `${route}/${id}` : route);
          await act?.(page, size);
          await page.waitForLoadState("networkidle").catch(() => {});
          await take(page, `${name}-${size}-${colorScheme}`);
          await context.close();
          context.watch.check();
        }
      }
    }
  } finally {
    await browser.close();
  }
}

await mkdir(folder, { recursive: true });
await withServers(takeAll);
