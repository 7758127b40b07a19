/**
 * Shows a text of a model, which may be hostile and may still be growing, as Markdown.
 *
 * This module is the only place where the page makes HTML of a text: marked writes it, DOMPurify
 * lets pass what is allowed. The text is divided into blocks (`markdown/blocks.js`); while it grows
 * only the last block is rendered again, once per frame at most, and never for long.
 */

import { Splitter, sameBlock } from "./markdown/blocks.js";
import { codeBlock, codeText } from "./markdown/code.js";
import { decorate } from "./markdown/decorate.js";
import { cancelFrame, inFrame, nowOrInFrame } from "./markdown/frames.js";
import { isHarmless, withoutPiles } from "./markdown/limits.js";
import { parseMarkdown } from "./markdown/parse.js";
import { showFormula } from "./math.js";

/**
 * @typedef {object} Labels texts in the user's language, and what a copy button does
 * @property {string} copy on the button of a block of code
 * @property {string} copied on the button, for a moment
 * @property {string} code name of a block of code for screen readers
 * @property {string} table name of a table for screen readers
 * @property {string} image an image without a description
 * @property {(text: string) => Promise<boolean>} onCopy copies a text; returns whether it worked
 */

/** Milliseconds that a copy button says that it has copied. */
const COPIED = 1_500;

/** Shows one text in one element. */
export class MarkdownView {
  #root;
  #labels;
  #splitter = new Splitter();
  #text = "";
  #done = true;
  /** For each element below the root: the block that it shows, and how to change it. */
  #shown = [];
  #job = (isOver) => this.#render(isOver);
  #onClick = (event) => this.#copy(event);

  /**
   * @param {HTMLElement} root an empty element
   * @param {Labels} labels
   */
  constructor(root, labels) {
    this.#root = root;
    this.#labels = labels;
    root.addEventListener("click", this.#onClick);
  }

  /**
   * Shows a text, in this frame or the next ones.
   * @param {string} text all of it, not only what is new
   * @param {boolean} [done] whether no more comes
   */
  update(text, done = true) {
    if (!text.startsWith(this.#text)) this.#shown.forEach((shown) => (shown.block = undefined));
    this.#text = text;
    this.#done = done;
    if (this.#shown.length === 0) nowOrInFrame(this.#job);
    else inFrame(this.#job);
  }

  /** Ends the view: its element may be used for something else. */
  destroy() {
    cancelFrame(this.#job);
    this.#root.removeEventListener("click", this.#onClick);
  }

  /** Returns whether there is more to render. */
  #render(isOver) {
    const blocks = this.#splitter.feed(this.#text, this.#done);
    for (let index = this.#firstChanged(blocks); index < blocks.length; index += 1) {
      this.#show(index, blocks[index]);
      if (isOver() && index + 1 < blocks.length) return true;
    }
    while (this.#shown.length > blocks.length) this.#shown.pop().element.remove();
    return false;
  }

  #firstChanged(blocks) {
    const { length } = this.#shown;
    let index = 0;
    while (index < length && index < blocks.length) {
      if (!sameBlock(this.#shown[index].block, blocks[index])) break;
      index += 1;
    }
    return index;
  }

  #show(index, block) {
    const shown = this.#shown[index];
    if (shown && sameBlock(shown.block, block)) return;
    const growing = shown?.block?.kind === "code" && block.kind === "code";
    if (growing && shown.block.start === block.start && shown.block.language === block.language) {
      shown.update(this.#text.slice(block.from, block.to), block.closed);
      shown.block = block;
      return;
    }
    const next = { block, ...this.#make(block) };
    if (shown) shown.element.replaceWith(next.element);
    else this.#root.append(next.element);
    this.#shown[index] = next;
  }

  #make(block) {
    const text = this.#text;
    if (block.kind === "code") {
      const code = codeBlock("", block.language, this.#labels);
      code.update(text.slice(block.from, block.to), block.closed);
      return code;
    }
    const source = withoutPiles(text.slice(block.start, block.end));
    if (block.kind === "formula" && block.closed) {
      return { element: formulaBox(text.slice(block.from, block.to)) };
    }
    if (block.kind === "image") return { element: imageBox(source) ?? plainBox(source) };
    if (block.kind === "text" && isHarmless(source)) {
      return { element: markdownBox(source, this.#labels) ?? plainBox(source) };
    }
    return { element: plainBox(source) };
  }

  async #copy({ target }) {
    const button = target instanceof Element ? target.closest("button.copy-code") : null;
    if (!button || !(await this.#labels.onCopy(codeText(button.closest("figure"))))) return;
    button.textContent = this.#labels.copied;
    setTimeout(() => (button.textContent = this.#labels.copy), COPIED);
  }
}

/** Nothing if the parser gives up. */
function markdownBox(source, labels) {
  try {
    const fragment = parseMarkdown(source);
    decorate(fragment, labels);
    return box("text-block", fragment);
  } catch {
    return undefined;
  }
}

function plainBox(source) {
  const element = box("plain-block", source);
  element.dir = "auto";
  return element;
}

function formulaBox(tex) {
  const code = document.createElement("code");
  code.className = "formula display";
  code.textContent = tex.trim();
  const element = box("text-block", code);
  showFormula(code, tex.trim(), true);
  return element;
}

/** An image whose data is in the text; nothing if the line has more than that. */
function imageBox(source) {
  const found = /^!\[([^\]\n]*)\]\((data:image\/[a-z]+;base64,[A-Za-z0-9+/=]+)\)\s*$/.exec(source);
  if (!found) return undefined;
  const image = document.createElement("img");
  image.alt = found[1];
  image.src = found[2];
  return box("text-block", image);
}

function box(name, content) {
  const element = document.createElement("div");
  element.className = name;
  element.append(content);
  return element;
}
