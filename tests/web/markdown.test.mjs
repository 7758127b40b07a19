// How a text is divided into blocks, and which texts are not rendered as Markdown: no DOM needed.

import assert from "node:assert/strict";
import { test } from "node:test";

import { MAX_BLOCK, MAX_BLOCKS, PIECE, Splitter, pieces } from "../../offgrid/web/lib/markdown/blocks.js";
import { formulaAt } from "../../offgrid/web/lib/markdown/formulas.js";
import { isHarmless, withoutPiles } from "../../offgrid/web/lib/markdown/limits.js";
import { visibleParts } from "../../offgrid/web/lib/markdown/visible.js";

const blocksOf = (text, done = true) => new Splitter().feed(text, done);
const sources = (text) => blocksOf(text).map(({ start, end }) => text.slice(start, end).trim());
const kinds = (text) => blocksOf(text).map(({ kind }) => kind);
const content = (text, block) => text.slice(block.from, block.to);

test("paragraphs, lists and code are blocks", () => {
  const text = "One\ntwo\n\nThree\n\n- a\n\n- b\n  c\n\nFour\n```python\nx = 1\n\ny\n```\nFive";
  assert.deepEqual(sources(text), [
    "One\ntwo", "Three", "- a\n\n- b\n  c", "Four", "```python\nx = 1\n\ny\n```", "Five",
  ]);
  const code = blocksOf(text)[4];
  assert.equal(code.kind, "code");
  assert.equal(code.language, "python");
  assert.equal(content(text, code), "x = 1\n\ny");
});

test("a fence ends only with a fence that is long enough", () => {
  const text = "````md\n```js\n1\n```\n````\nend";
  const [code, rest] = blocksOf(text);
  assert.equal(content(text, code), "```js\n1\n```");
  assert.equal(text.slice(rest.start, rest.end), "end");
});

test("code inside an item of a list belongs to the list", () => {
  const text = "1. a\n\n   ```sh\n   ls\n   ```\n\n2. b";
  assert.deepEqual(sources(text), [text]);
});

test("code that is not finished is code", () => {
  const text = "```js\nconst a";
  const [code] = blocksOf(text, false);
  assert.equal(code.kind, "code");
  assert.equal(code.closed, false);
  assert.equal(content(text, code), "const a");
  assert.equal(content("```", blocksOf("```")[0]), "");
});

test("formulas of several lines and of one line are blocks", () => {
  const text = "Text\n$$\na\n\nb\n$$\n\\[ x \\]\n$$y$$\nin $$z$$ line";
  assert.deepEqual(kinds(text), ["text", "formula", "formula", "formula", "text"]);
  assert.deepEqual(
    blocksOf(text).slice(1, 4).map((block) => content(text, block).trim()),
    ["a\n\nb", "x", "y"],
  );
});

test("blocks are the same however the text arrives", () => {
  const text =
    "# A\n\nb **c\n\n> d\n\n1. e\n2. f\n\n   g\n\n$$\nh\n$$\n```c\ni\n```\n| j |\n|---|\n| k |\n\n" +
    "```\nopen";
  const splitter = new Splitter();
  for (let size = 1; size <= text.length; size += 1) {
    const grown = splitter.feed(text.slice(0, size));
    assert.deepEqual(grown, blocksOf(text.slice(0, size), false), `after ${size} characters`);
  }
  assert.deepEqual(splitter.feed(text, true), blocksOf(text));
});

test("another text replaces the first one", () => {
  const splitter = new Splitter();
  splitter.feed("```js\nabc");
  assert.deepEqual(splitter.feed("text", true), blocksOf("text"));
});

test("every character but the white space between blocks is in one block", () => {
  const text = `${"word ".repeat(10_000)}\n\n${"a\n".repeat(30_000)}\n${"x".repeat(100_000)}\n\nlast`;
  let last = 0;
  for (const { start, end } of blocksOf(text)) {
    assert.ok(start >= last && text.slice(last, start).trim() === "");
    last = end;
  }
  assert.equal(text.slice(last).trim(), "");
});

test("large texts are plain, in pieces", () => {
  for (const text of ["x".repeat(1_000_000), "a\n".repeat(100_000), "b ".repeat(MAX_BLOCK)]) {
    const blocks = blocksOf(text);
    assert.deepEqual([...new Set(kinds(text))], ["plain"]);
    assert.ok(blocks.every(({ start, end }) => end - start <= PIECE));
    assert.ok(blocks.length < text.length / 1_000);
  }
});

test("each character is looked at a few times, however the text is made", () => {
  const formulas = `\\[\n${"\n".repeat(7_000)}a\n\n`.repeat(5);
  for (const text of [`${formulas}${"\\".repeat(40_000)}`, `${formulas}${"x".repeat(40_000)}`, "x".repeat(1_000_000), "a\n".repeat(50_000)]) {
    let looks = 0;
    const counted = (found, most) => {
      looks += found < 0 ? most : Math.abs(found);
      return found;
    };
    /** Counts the characters that a search goes through, and those that are copied. */
    class Counted extends String {
      indexOf(part, from = 0) {
        const found = super.indexOf(part, from);
        counted(found < 0 ? -1 : found - from, this.length - from);
        return found;
      }
      lastIndexOf(part, from) {
        const found = super.lastIndexOf(part, from);
        counted(found < 0 ? -1 : from - found, from);
        return found;
      }
      slice(...range) {
        const found = super.slice(...range);
        looks += found.length;
        return found;
      }
    }
    const blocks = new Splitter().feed(new Counted(text), true);
    assert.deepEqual(blocks, blocksOf(text));
    assert.ok(looks < 10 * text.length, `${looks} looks at ${text.length} characters`);
  }
});

test("the number of blocks is limited", () => {
  const blocks = blocksOf("a\n\n".repeat(100_000));
  assert.ok(blocks.length < MAX_BLOCKS + 100);
  assert.equal(blocks[MAX_BLOCKS - 1].kind, "text");
  assert.equal(blocks.at(-1).kind, "plain");
});

test("Markdown goes on after a large paragraph", () => {
  const text = `${"x".repeat(50_000)}\n\n# After`;
  assert.equal(blocksOf(text).at(-1).kind, "text");
});

test("pieces do not divide a character", () => {
  const text = "😀".repeat(PIECE);
  for (const [start, end] of pieces(text)) assert.ok(text.slice(start, end).isWellFormed());
});

test("only an image of the text itself is an image block", () => {
  assert.deepEqual(kinds(`![a](data:image/png;base64,${"A".repeat(100_000)})`), ["image"]);
  assert.deepEqual(kinds("![a](https://example.org/a.png)"), ["text"]);
  assert.deepEqual(kinds("![a](data:image/svg+xml;base64,AAAA)"), ["text"]);
});

test("formulas are told from money", () => {
  const tex = (text) => formulaAt(text)?.tex;
  assert.equal(tex("$x^2$ and"), "x^2");
  assert.equal(tex("$\\$5$"), "\\$5");
  assert.equal(tex("$5 and $10"), undefined);
  assert.equal(tex("$5$10"), undefined);
  assert.equal(tex("$ x$"), undefined);
  assert.equal(tex("$$"), undefined);
  assert.equal(tex("$a\n\nb$"), undefined);
  assert.deepEqual(formulaAt("$$x$$y"), { raw: "$$x$$", tex: "x", display: true });
  assert.deepEqual(formulaAt("\\(x\\)y"), { raw: "\\(x\\)", tex: "x", display: false });
  assert.equal(formulaAt("\\(x"), undefined);
});

test("usual texts are parsed", () => {
  const table = `| a | b | c |\n|---|---|---|\n${"| **1** | `2` | [3](https://a.b) |\n".repeat(100)}`;
  const list = Array.from({ length: 8 }, (_, level) => `${"  ".repeat(level)}- *item*`).join("\n");
  for (const text of [table, list, "> > quoted\n> - a", "    indented code", "a * b * c = 3"]) {
    assert.ok(isHarmless(text), text.slice(0, 40));
  }
});

test("texts that the parser is slow for are not parsed", () => {
  const size = 10_000;
  const texts = {
    quotes: ">".repeat(size), spacedQuotes: "> ".repeat(size), stars: "*".repeat(size),
    brackets: "[".repeat(size), items: "- ".repeat(size), numbers: "1. ".repeat(size),
    mixed: "> - ".repeat(size), underscores: "a_b".repeat(size), bars: "|a".repeat(size),
    address: `${"a.".repeat(size)}@`, ticks: "`".repeat(size), tags: "<a ".repeat(size),
    indented: Array.from({ length: 100 }, (_, level) => `${" ".repeat(2 * level)}- a`).join("\n"),
  };
  for (const [name, text] of Object.entries(texts)) assert.ok(!isHarmless(text), name);
});

test("marks do not pile up on a letter", () => {
  assert.equal(withoutPiles("a\u0301e\u0301"), "a\u0301e\u0301");
  assert.equal(withoutPiles(`a${"\u0301".repeat(20_000)}b`), `a${"\u0301".repeat(20)}\u2026b`);
});

test("hidden characters are made visible", () => {
  assert.deepEqual(visibleParts("a\u202eb"), ["a", { label: "RLO", character: "\u202e" }, "b"]);
  assert.deepEqual(visibleParts("a\r\nb\tc"), ["a\r\nb\tc"]);
  assert.deepEqual(visibleParts("\u0007"), [{ label: "U+0007", character: "\u0007" }]);
  assert.deepEqual(visibleParts("\u{e0041}").map((part) => part.label), ["U+E0041"]);
  assert.deepEqual(visibleParts("עברית"), ["עברית"]);
});
