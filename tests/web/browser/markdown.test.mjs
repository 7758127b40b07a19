// What Markdown of a model looks like on the page.
import assert from "node:assert/strict";
import { test } from "node:test";
import { openPage } from "../lib/browser.mjs";
import { lastAnswer } from "../lib/chat.mjs";
import { suite } from "../lib/suite.mjs";

const it = suite();
const PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

let number = 0;

/** Show a text as the answer of a stored conversation, and run a function with it. */
function shown(content, run) {
  return it.visit(async (context) => {
    number += 1;
    const { id } = await it.server.api("POST", "/v1/history", {
      title: "Markdown",
      messages: [
        { id: `q${number}`, parent: null, role: "user", content: "Write", status: "done" },
        { id: `a${number}`, parent: `q${number}`, role: "assistant", content: `${content}\n\nTHE END`, status: "done" },
      ],
    });
    const page = await openPage(context, it.server, `/chat/${id}`);
    const answer = await lastAnswer(page);
    await answer.getByText("THE END", { exact: true }).waitFor();
    await run(answer, page);
  });
}

test("links open elsewhere, and only addresses of the web and of mail are links", () => shown(
  "[a](https://example.org) [b](mailto:x@example.org) [c](#/keys) [d](file:///etc/passwd) www.example.org",
  async (answer) => {
    const links = await answer.locator("a").evaluateAll((all) => all.map(({ href, rel, target, title }) => ({ href, rel, target, title })));
    const rest = { rel: "noopener noreferrer", target: "_blank" };
    assert.deepEqual(links, ["https://example.org/", "mailto:x@example.org", "http://www.example.org/"].map(
      (href) => ({ href, ...rest, title: href })));
    await answer.getByText("c", { exact: false }).first().waitFor();
  },
));

test("images of the text are shown, those of other hosts are links", () => shown(
  `![own](data:image/png;base64,${PIXEL})\n\nand ![other](https://example.org/a.png)`,
  async (answer) => {
    assert.ok(await answer.locator("img").evaluate((image) => image.complete && image.naturalWidth === 1));
    assert.equal(await answer.locator("img").count(), 1);
    assert.equal(await answer.getByRole("link", { name: "other" }).getAttribute("href"), "https://example.org/a.png");
  },
));

test("HTML is text", () => shown("<b>bold</b> <br> <details open>\n\n<div>\n*it*\n</div>", async (answer) => {
  assert.match(await answer.innerText(), /<b>bold<\/b>/);
  assert.equal(await answer.locator(".markdown b, .markdown details, .markdown div div").count(), 0);
  assert.equal(await answer.locator("em").textContent(), "it");
}));

test("formulas become MathML; what is no formula stays text", () => shown(
  "$x^2$ costs $5 and $10 \\(a\\) $\\frac{1}{2$\n\n$$\n\\sum_i x_i\n\n$$\n\\[ y \\]",
  async (answer, page) => {
    await page.waitForFunction(() => document.querySelectorAll("math").length === 4);
    assert.match(await answer.innerText(), /costs \$5 and \$10/);
    assert.equal(await answer.locator("code.formula").textContent(), "\\frac{1}{2");
    assert.equal(await answer.locator(".formula-box.display").count(), 2);
  },
));

test("code has colours, its language, and its hidden characters in sight", () => shown(
  "```python\ndef f():\n    return \"a\u202eb\u200b\"\n```\n\n- in a list:\n\n  ```js\n  let x = 1;\n  ```\n\n`\u2066x`",
  async (answer) => {
    await answer.locator(".hljs-keyword").nth(2).waitFor();
    assert.deepEqual(await answer.locator("figcaption span").allTextContents(), ["python", "js"]);
    assert.deepEqual(await answer.locator(".hidden-character").allTextContents(), ["RLO", "ZWSP", "LRI"]);
    assert.equal(await answer.locator("pre").first().getAttribute("dir"), "ltr");
  },
));

test("columns are aligned, lists keep their numbers, tasks their state", () => shown(
  "| a | b |\n|:-:|--:|\n| 1 | 2 |\n\n3. three\n\ntext\n\n4. four\n\n- [x] done\n- [ ] open",
  async (answer) => {
    const align = (cell) => getComputedStyle(cell).textAlign;
    assert.equal(await answer.locator("td").first().evaluate(align), "center");
    assert.equal(await answer.locator("td").last().evaluate(align), "end");
    assert.deepEqual(await answer.locator("ol").evaluateAll((all) => all.map(({ start }) => start)), [3, 4]);
    assert.match(await answer.innerText(), /☑ done[^]*☐ open/);
  },
));

test("each paragraph has its own direction", () => shown("English\n\nمرحبا بالعالم\n\n\u202eturned", async (answer) => {
  const directions = await answer.locator("p").evaluateAll((all) => all.map((one) => getComputedStyle(one).direction));
  assert.deepEqual(directions.slice(0, 2), ["ltr", "rtl"]);
  assert.equal(await answer.locator(".hidden-character").textContent(), "RLO");
}));

test("lists and tables begin where their text does", () => shown(
  "1. `pip` أولًا\n2. second\n\ntext\n\n| مدينة | b |\n|---|---|\n| c | 5 |\n\n- one\n- مرحبا\n\n> مرحبا",
  async (answer) => {
    const directions = await answer.locator("ol, table, ul, blockquote")
      .evaluateAll((all) => all.map((one) => `${one.localName} ${getComputedStyle(one).direction}`));
    assert.deepEqual(directions, ["ol rtl", "table rtl", "ul ltr", "blockquote rtl"]);
    // Otherwise the number of an item of another direction is cut off.
    const items = await answer.locator("li").evaluateAll((all) => all.map((one) => getComputedStyle(one).direction));
    assert.deepEqual(items, ["rtl", "rtl", "ltr", "ltr"]);
  },
));
