/**
 * Says which texts are not rendered as Markdown because the parser would take too long for them.
 *
 * The parser is recursive, and quadratic in some characters; such texts are not written for readers.
 */

/** Levels of quotations and lists at the beginning of a line. */
const MAX_LEVELS = 12;
/** Spaces before an item of a list. */
const MAX_INDENT = 60;
/** Characters in a block that open or close something. */
const MAX_MARKS = 1_200;
/** Levels of brackets. */
const MAX_BRACKETS = 24;
/** Characters without a space. */
const MAX_WORD = 2_000;
/** Borders between the cells of tables. */
const MAX_BARS = 1_500;
/** Lines of a block. */
const MAX_LINES = 600;

/**
 * Whether a block may be given to the parser.
 * @param {string} text at most `MAX_BLOCK` characters
 */
export function isHarmless(text) {
  const lines = text.split("\n");
  if (lines.length > MAX_LINES || hasLongWord(text) || !hasFewMarks(text)) return false;
  return lines.every(isShallow);
}

const MANY_MARKS = /(\p{M}{20})\p{M}+/gu;

/**
 * Leaves out marks that pile up on one letter: browsers take long to draw them.
 * @param {string} text
 */
export function withoutPiles(text) {
  return text.replace(MANY_MARKS, "$1\u2026");
}

/** Counts what opens a quotation or an item at the beginning of a line. */
function isShallow(line) {
  let index = 0;
  let levels = 0;
  for (;;) {
    const spaces = /^[ \t]*/.exec(line.slice(index, index + MAX_INDENT + 1))[0].length;
    if (spaces > MAX_INDENT) return levels === 0 && /^[ \t]*(?![ \t>*+\-\d])/.test(line);
    index += spaces;
    const mark = /^(?:>|[-*+](?=[ \t])|\d{1,9}[.)](?=[ \t]))/.exec(line.slice(index, index + 12));
    if (!mark) return true;
    index += mark[0].length;
    levels += 1;
    if (levels > MAX_LEVELS) return false;
  }
}

function hasFewMarks(text) {
  let marks = 0;
  let bars = 0;
  let depth = 0;
  for (let index = 0; index < text.length; index += 1) {
    const character = text[index];
    if (character === "|") bars += 1;
    else if ("*_~[]<`&@!\\$".includes(character)) marks += 1;
    if (character === "[") depth += 1;
    else if (character === "]" && depth > 0) depth -= 1;
    else if (character === "\n" && text[index + 1] === "\n") depth = 0;
    if (marks > MAX_MARKS || bars > MAX_BARS || depth > MAX_BRACKETS) return false;
  }
  return true;
}

function hasLongWord(text) {
  let last = -1;
  for (let index = 0; index <= text.length; index += 1) {
    if (index < text.length && text.charCodeAt(index) > 32) continue;
    if (index - last > MAX_WORD) return true;
    last = index;
  }
  return false;
}
