// Accessibility: axe-core on the page that is shown.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const source = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** Fail if axe-core finds a serious or critical issue. */
export async function accessible(page, what) {
  await page.evaluate(source); // Evaluated by the debugger, which no policy forbids.
  const { violations } = await page.evaluate(() => window.axe.run(document, {
    resultTypes: ["violations"],
  }));
  const serious = violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.slice(0, 4)
      .map((node) => `${node.target.join(" ")} ${node.html.slice(0, 120)} ${
        node.any[0]?.message ?? ""}`).join(" | ")}`);
  assert.deepEqual(serious, [], `accessibility of ${what}`);
}
