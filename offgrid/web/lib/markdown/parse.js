/** Markdown of a block -> safe DOM: marked makes HTML, and DOMPurify lets pass what is allowed. */

import { Marked } from "../../vendor/marked.js";
import createPurifier from "../../vendor/purify.js";
import { formulaAt, formulaStart } from "./formulas.js";

const TAGS = [
  "p", "br", "hr", "h3", "h4", "h5", "h6", "strong", "em", "del", "code", "pre", "a", "img",
  "blockquote", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td", "span",
];
const ATTRIBUTES = ["href", "src", "alt", "title", "align", "start", "class"];

const formula = {
  name: "formula",
  level: "inline",
  start: formulaStart,
  tokenizer(text) {
    const found = formulaAt(text);
    return found && { type: "formula", ...found };
  },
  renderer({ tex, display }) {
    return `<code class="formula${display ? " display" : ""}">${escape(tex)}</code>`;
  },
};

const lineBreak = {
  name: "lineBreak",
  level: "inline",
  start: (text) => text.match(/<br/i)?.index,
  tokenizer(text) {
    const found = /^<br ?\/?>/i.exec(text);
    return found && { type: "lineBreak", raw: found[0] };
  },
  renderer: () => "<br>",
};

const marked = new Marked({ gfm: true, breaks: true });
marked.use({
  extensions: [formula, lineBreak],
  // HTML of a model is text: nothing of it becomes an element.
  tokenizer: { html: () => undefined, tag: () => undefined },
  renderer: {
    html: ({ text }) => escape(text),
    checkbox: ({ checked }) => (checked ? "\u2611 " : "\u2610 "),
    heading({ tokens, depth }) {
      // The page itself has the headings of the first two levels.
      const level = Math.min(depth + 2, 6);
      const body = this.parser.parseInline(tokens);
      return `<h${level} class="heading-${depth}">${body}</h${level}>\n`;
    },
  },
});

function escape(text) {
  return text
    .replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;").replaceAll("'", "&#39;");
}

let purifier;

/** The purifier needs a window, which comes after this module in tests. */
function purify(dirty, options) {
  purifier ??= createPurifier(window);
  return purifier.sanitize(dirty, options);
}

/**
 * Renders a block of Markdown.
 * @param {string} source
 * @returns {DocumentFragment} without scripts, styles, forms, ids, and addresses that are not
 *     `http:`, `https:`, `mailto:` or an image in the text itself
 */
export function parseMarkdown(source) {
  return purify(marked.parse(source), {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ATTRIBUTES,
    ADD_URI_SAFE_ATTR: ["align", "start"],
    ALLOW_ARIA_ATTR: false,
    ALLOW_DATA_ATTR: false,
    ALLOWED_URI_REGEXP: /^(?:https?:|mailto:|data:image\/(?:png|jpe?g|gif|webp);base64,)/i,
    RETURN_DOM_FRAGMENT: true,
  });
}

/**
 * Lets pass what a highlighter writes: text and `span` with a class.
 * @param {string} html
 * @returns {DocumentFragment}
 */
export function cleanHighlighted(html) {
  return purify(html, {
    ALLOWED_TAGS: ["span"],
    ALLOWED_ATTR: ["class"],
    ALLOW_ARIA_ATTR: false,
    ALLOW_DATA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });
}
