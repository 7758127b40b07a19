/** Finishes the DOM of a block: links, images, tables, code, formulas and directions. */

import { showFormula } from "../math.js";
import { codeBlock } from "./code.js";
import { showHidden } from "./visible.js";

const IMAGE_DATA = /^data:image\/(?:png|jpe?g|gif|webp);base64,/i;
const PARAGRAPHS = "p, h3, h4, h5, h6, th, td";
const CONTAINERS = "ul, ol, table, blockquote";
const RIGHT_TO_LEFT = /[\p{Script=Arabic}\p{Script=Hebrew}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}\p{Script=Adlam}]/u;

/**
 * @param {DocumentFragment} fragment from `parseMarkdown`; changed in place
 * @param {import("../markdown.js").Labels} labels
 */
export function decorate(fragment, labels) {
  for (const link of fragment.querySelectorAll("a")) decorateLink(link);
  for (const image of fragment.querySelectorAll("img")) decorateImage(image, labels);
  for (const table of fragment.querySelectorAll("table")) wrapTable(table, labels);
  for (const pre of fragment.querySelectorAll("pre")) replaceCode(pre, labels);
  for (const code of fragment.querySelectorAll("code.formula")) {
    showFormula(code, code.textContent, code.classList.contains("display"));
  }
  // Each paragraph has the direction of its first letter, and cannot change its neighbours'.
  for (const element of fragment.querySelectorAll(PARAGRAPHS)) element.dir = "auto";
  // "auto" does not see the letters of paragraphs inside; numbers of lists and columns stand on the side where they begin.
  for (const element of fragment.querySelectorAll(CONTAINERS)) element.dir = directionOf(element);
  for (const code of fragment.querySelectorAll("code:not(.formula)")) {
    if (code.closest("pre")) continue;
    code.dir = "ltr";
    showHidden(code);
  }
  showHidden(fragment, { onlyOverrides: true });
}

/** The address of a link, or nothing if the page must not open it. */
function safeAddress(text) {
  if (!/^(?:https?:|mailto:)/i.test(text)) return undefined;
  try {
    return new URL(text).href;
  } catch {
    return undefined;
  }
}

function decorateLink(link) {
  const address = safeAddress(link.getAttribute("href") ?? "");
  if (!address) {
    link.replaceWith(...link.childNodes);
    return;
  }
  link.href = address;
  link.target = "_blank";
  link.rel = "noopener noreferrer";
  link.dir = "auto";
  // A reader sees where a link leads, whatever its text says.
  link.title = address;
}

/** Images of other hosts are not requested; they become links. */
function decorateImage(image, labels) {
  const source = image.getAttribute("src") ?? "";
  if (IMAGE_DATA.test(source)) {
    image.loading = "lazy";
    image.removeAttribute("class");
    return;
  }
  const text = image.alt || labels.image;
  const address = safeAddress(source);
  if (!address || image.closest("a")) {
    image.replaceWith(text);
    return;
  }
  const link = document.createElement("a");
  link.setAttribute("href", address);
  link.className = "image-link";
  link.textContent = text;
  image.replaceWith(link);
  decorateLink(link);
}

/** A wide table scrolls in a box, which the keyboard must reach. */
function wrapTable(table, labels) {
  const box = document.createElement("div");
  box.className = "table-box";
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", labels.table);
  table.replaceWith(box);
  box.append(table);
}

function replaceCode(pre, labels) {
  const code = pre.querySelector("code");
  const language = /(?:^| )language-(\S+)/.exec(code?.className ?? "")?.[1] ?? "";
  const text = (code ?? pre).textContent.replace(/\n$/, "");
  pre.replaceWith(codeBlock(text, language, labels).element);
}

/** The direction of the first letter outside code; "auto" if there is none. */
function directionOf(element) {
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const letter = !walker.currentNode.parentElement.closest("code, pre, math") && /\p{L}/u.exec(walker.currentNode.data)?.[0];
    if (letter) return RIGHT_TO_LEFT.test(letter) ? "rtl" : "ltr";
  }
  return "auto";
}
