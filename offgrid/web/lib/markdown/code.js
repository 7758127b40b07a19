/** Blocks of code: language, copy button, colours, and hidden characters made visible. */

import { highlight } from "../highlight.js";
import { pieces } from "./blocks.js";
import { appendVisible, showHidden } from "./visible.js";

/** Characters of code that is coloured. */
const MAX_COLOURED = 40_000;
/** Characters of a line of code that is coloured: some grammars are quadratic in it. */
const MAX_LINE = 2_000;
/** Characters of code that is coloured while it still grows. */
const MAX_GROWING = 4_000;
/** Characters of code in one element. */
const MAX_WHOLE = 8_000;

const texts = new WeakMap();

/**
 * The text of a block of code, for its copy button.
 * @param {Element} figure
 * @returns {string}
 */
export function codeText(figure) {
  return texts.get(figure)?.() ?? "";
}

/**
 * Makes a block of code.
 * @param {string} text
 * @param {string} language as the author wrote it; may be empty
 * @param {import("../markdown.js").Labels} labels
 * @returns {{element: HTMLElement, update: (text: string, closed: boolean) => void}}
 */
export function codeBlock(text, language, labels) {
  const figure = document.createElement("figure");
  figure.className = "code-block";
  const bar = document.createElement("figcaption");
  const name = document.createElement("span");
  appendVisible(name, language.slice(0, 40));
  bar.append(name, copyButton(labels));
  const pre = document.createElement("pre");
  pre.tabIndex = 0;
  pre.dir = "ltr";
  pre.setAttribute("role", "group");
  pre.setAttribute("aria-label", labels.code);
  const code = document.createElement("code");
  pre.append(code);
  figure.append(bar, pre);
  const body = new Body(code, language);
  texts.set(figure, () => body.text);
  body.update(text, true);
  return { element: figure, update: (next, closed) => body.update(next, closed) };
}

function copyButton(labels) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy-code";
  button.textContent = labels.copy;
  return button;
}

/** The text of a block of code: coloured if it is short enough, in pieces if it is long. */
class Body {
  text = "";
  #code;
  #language;
  #version = 0;
  /** The first character of the last piece. */
  #last = 0;

  constructor(code, language) {
    this.#code = code;
    this.#language = language;
  }

  update(text, closed) {
    const before = this.text;
    this.text = text;
    this.#version += 1;
    if (this.#isColoured(closed)) this.#colour(before);
    else if (text.length <= MAX_WHOLE) this.#replace(text);
    else this.#continue(text, text.startsWith(before) && before.length > MAX_WHOLE);
  }

  #isColoured(closed) {
    if (!this.#language) return false;
    if (this.text.length > (closed ? MAX_COLOURED : MAX_GROWING)) return false;
    return this.text.split("\n").every((line) => line.length <= MAX_LINE);
  }

  /** Colours come later if a grammar has to be fetched first. */
  #colour(before) {
    const version = this.#version;
    const show = (fragment) => {
      if (version !== this.#version || !fragment) return;
      showHidden(fragment);
      this.#code.replaceChildren(fragment);
    };
    const result = highlight(this.text, this.#language);
    if (!(result instanceof Promise)) {
      if (result) show(result);
      else this.#replace(this.text);
      return;
    }
    if (this.text !== before || !this.#code.hasChildNodes()) this.#replace(this.text);
    result.then(show);
  }

  #replace(text) {
    const fragment = document.createDocumentFragment();
    appendVisible(fragment, text);
    this.#code.replaceChildren(fragment);
  }

  /** Long code is in several elements, of which the browser lays out those in view. */
  #continue(text, grown) {
    if (!grown) {
      this.#code.replaceChildren();
      this.#last = 0;
    } else this.#code.lastChild.remove();
    for (const [start, end] of pieces(text, this.#last)) {
      const piece = document.createElement("span");
      piece.className = "code-piece";
      appendVisible(piece, text.slice(start, end).replace(/\n$/, ""));
      this.#code.append(piece);
      this.#last = start;
    }
  }
}
