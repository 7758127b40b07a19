/**
 * Makes characters visible that change how the characters around them are shown, or hide text.
 *
 * In code they can make a program look like another one, so each is shown with its number.
 */

const NAMES = {
  0x00ad: "SHY", 0x061c: "ALM", 0x180e: "MVS", 0x200b: "ZWSP", 0x200c: "ZWNJ", 0x200d: "ZWJ",
  0x200e: "LRM", 0x200f: "RLM", 0x202a: "LRE", 0x202b: "RLE", 0x202c: "PDF", 0x202d: "LRO",
  0x202e: "RLO", 0x2028: "LSEP", 0x2029: "PSEP", 0x2060: "WJ", 0x2066: "LRI", 0x2067: "RLI",
  0x2068: "FSI", 0x2069: "PDI", 0xfeff: "BOM",
};

/** Control characters but tab and line end, characters of bidirectional text, and hidden ones. */
const HIDDEN =
  // eslint-disable-next-line no-control-regex
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu;

/**
 * Returns the parts of a text: texts as they are, and objects for hidden characters.
 * @param {string} text
 * @returns {(string|{label: string, character: string})[]}
 */
export function visibleParts(text) {
  const parts = [];
  let last = 0;
  for (const match of text.matchAll(HIDDEN)) {
    if (match[0] === "\r" && text[match.index + 1] === "\n") continue;
    if (match.index > last) parts.push(text.slice(last, match.index));
    parts.push({ label: label(match[0].codePointAt(0)), character: match[0] });
    last = match.index + match[0].length;
  }
  if (last < text.length) parts.push(text.slice(last));
  return parts;
}

function label(point) {
  return NAMES[point] ?? `U+${point.toString(16).toUpperCase().padStart(4, "0")}`;
}

/** More hidden characters than this are not shown one by one. */
const MAX_SHOWN = 2_000;

/**
 * Appends a text to an element, with hidden characters made visible.
 * @param {Node} parent
 * @param {string} text
 */
export function appendVisible(parent, text) {
  const parts = visibleParts(text);
  if (parts.length > MAX_SHOWN) {
    parent.append(text.replaceAll(HIDDEN, (character) => (character === "\r" ? "" : "\ufffd")));
    return;
  }
  for (const part of parts) parent.append(typeof part === "string" ? part : mark(part));
}

function mark({ label: text }) {
  const element = document.createElement("span");
  element.className = "hidden-character";
  element.textContent = text;
  return element;
}

/** Characters that turn letters round against the direction of their script: never needed. */
const OVERRIDES = /[\u202d\u202e]/;
const ANY = new RegExp(HIDDEN.source, "u");

/**
 * Makes the hidden characters below an element visible.
 * @param {Element|DocumentFragment} root
 * @param {{onlyOverrides?: boolean}} [options] `onlyOverrides`: in texts with overrides of the
 *     direction; other hidden characters are part of some scripts
 */
export function showHidden(root, { onlyOverrides = false } = {}) {
  const sought = onlyOverrides ? OVERRIDES : ANY;
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const nodes = [];
  while (walker.nextNode()) if (sought.test(walker.currentNode.data)) nodes.push(walker.currentNode);
  for (const node of nodes) {
    const fragment = document.createDocumentFragment();
    appendVisible(fragment, node.data);
    node.replaceWith(fragment);
  }
}
