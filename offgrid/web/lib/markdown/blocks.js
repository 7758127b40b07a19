/**
 * Divides a text that grows into blocks that can be rendered one by one.
 *
 * While an answer streams, only its last block changes, so only that one is rendered again. The
 * limits are here too: a block never becomes so large that rendering it would freeze the page.
 */

/** Characters of a block that is rendered as Markdown; a longer one is shown as plain text. */
export const MAX_BLOCK = 16_000;
/** Characters and blocks of a message that are rendered as Markdown; the rest is plain text. */
export const MAX_MARKDOWN = 400_000;
export const MAX_BLOCKS = 2_000;
/** Characters of one piece of plain text. */
export const PIECE = 8_000;

/** Characters at the beginning of a line that decide what the line is. */
const PREFIX = 1_000;
/** Characters of a formula of several lines. */
const MAX_FORMULA = 8_000;

/**
 * @typedef {object} Block
 * @property {"text"|"code"|"formula"|"image"|"plain"} kind
 * @property {number} start its first character
 * @property {number} end after its last character
 * @property {boolean} closed whether its end has come
 * @property {number} [from] first character of its content (code and formula)
 * @property {number} [to] after the last character of its content
 * @property {string} [language] of code, as written after the fence
 */

const FENCE = /^ {0,3}(`{3,}(?=[^`]*$)|~{3,})[ \t]*([^\s{]*)/;
const LIST = /^ {0,3}(?:[-*+]|\d{1,9}[.)])(?:[ \t]|$)/;
const FORMULA = /^ {0,3}(\$\$|\\\[)/;
const IMAGE = /^!\[[^\]\n]{0,500}\]\(data:image\/(?:png|jpe?g|gif|webp);base64,/;
const CLOSERS = { $$: "$$", "\\[": "\\]" };

/** A splitter reads each line of a text once, however often the text grows. */
export class Splitter {
  #text = "";
  /** Blocks that cannot change any more, and the one that can. */
  #blocks = [];
  #open = null;
  /** The first character of the line that is not complete. */
  #line = 0;

  /**
   * Returns the blocks of the text.
   * @param {string} text the text so far; usually the previous one with more at its end
   * @param {boolean} [done] whether no more comes
   * @returns {Block[]}
   */
  feed(text, done = false) {
    if (!text.startsWith(this.#text)) this.#reset();
    this.#text = text;
    for (let end; (end = text.indexOf("\n", this.#line)) >= 0; this.#line = end + 1) {
      this.#take(this.#line, end);
    }
    return this.#withLastLine(done);
  }

  #reset() {
    this.#blocks = [];
    this.#open = null;
    this.#line = 0;
  }

  /** The line that is not complete may still become another one, so it is only tried out. */
  #withLastLine(done) {
    const count = this.#blocks.length;
    const open = this.#open && { ...this.#open };
    const size = this.#text.length;
    if (this.#line < size) this.#take(this.#line, size);
    if (this.#open) {
      const closed = done;
      if (this.#open.to === undefined && this.#open.from !== undefined) {
        this.#open.to = Math.max(this.#open.from, size);
      }
      this.#push({ ...this.#open, end: size, closed });
    }
    const blocks = this.#blocks.slice();
    this.#blocks.length = count;
    this.#open = open;
    return blocks;
  }

  #take(start, end) {
    const line = this.#text.slice(start, Math.min(end, start + PREFIX));
    const open = this.#open;
    if (!open) {
      if (line.trim() || end - start > PREFIX) this.#begin(line, start, end);
    } else if (open.kind === "code") this.#inCode(line, start, end);
    else if (open.kind === "formula") this.#inFormula(start, end);
    else if (open.kind === "plain") this.#inPlain(line, end);
    else this.#inText(line, start, end);
  }

  #begin(line, start, end) {
    const fence = FENCE.exec(line);
    const whole = this.#blocks.length >= MAX_BLOCKS || start >= MAX_MARKDOWN;
    if (fence && !whole) {
      const from = Math.min(end + 1, this.#text.length);
      this.#open = { kind: "code", start, from, language: fence[2], fence: fence[1] };
    } else if (whole || !this.#beginOther(line, start, end)) {
      const list = LIST.test(line);
      this.#open = { kind: whole ? "plain" : "text", start, list, blank: false, whole };
      this.#limit(end);
    }
  }

  /** Begins a formula of several lines, or takes an image in one line. */
  #beginOther(line, start, end) {
    if (IMAGE.test(line)) {
      this.#open = { kind: "image", start };
      this.#close(end);
      return true;
    }
    const opener = FORMULA.exec(line);
    if (!opener) return false;
    const from = start + opener[0].length;
    const closer = CLOSERS[opener[1]];
    const rest = this.#text.slice(from, Math.min(end, from + MAX_FORMULA));
    const at = rest.indexOf(closer);
    if (at >= 0 && rest.slice(at + 2).trim()) return false;
    this.#open = { kind: "formula", start, from, closer };
    if (at >= 0) {
      this.#open.to = from + at;
      this.#close(end);
    }
    return true;
  }

  #inCode(line, start, end) {
    const { fence } = this.#open;
    const mark = line.trim();
    const closes =
      mark.length >= fence.length && line.search(/\S/) <= 3 && mark === fence[0].repeat(mark.length);
    if (!closes) return;
    this.#open.to = Math.max(this.#open.from, start - 1);
    this.#close(end);
  }

  #inFormula(start, end) {
    const { from, closer } = this.#open;
    // Only this line: the rest of the text is long, and has many lines that would each search it.
    const at = this.#text.slice(start, end).indexOf(closer);
    if (at >= 0) {
      this.#open.to = start + at;
      this.#close(end);
    } else if (end - from > MAX_FORMULA) {
      this.#open = { kind: "plain", start: this.#open.start, whole: false };
    }
  }

  #inPlain(line, end) {
    const blank = !line.trim() && end - this.#line <= PREFIX;
    if (blank && !this.#open.whole) this.#close(end);
    else if (end - this.#open.start > 4 * PIECE) {
      const { whole } = this.#open;
      this.#close(end);
      this.#open = { kind: "plain", start: Math.min(end + 1, this.#text.length), whole };
    }
  }

  #inText(line, start, end) {
    const open = this.#open;
    if (!line.trim()) {
      open.blank = true;
      return;
    }
    if (this.#interrupts(line, start)) {
      this.#close(start);
      this.#begin(line, start, end);
      return;
    }
    open.blank = false;
    this.#limit(end);
  }

  /** Whether a line begins a new block after a block of text. */
  #interrupts(line, start) {
    const { list, blank, start: first } = this.#open;
    const indented = /^(?: {2,}|\t)/.test(line);
    if (list && indented) return false;
    if (FENCE.test(line) || FORMULA.test(line) || IMAGE.test(line)) return true;
    if (!blank) return false;
    return !list || !LIST.test(line) || start - first > MAX_BLOCK / 2;
  }

  /** A block of text that is too large becomes plain. */
  #limit(end) {
    if (end - this.#open.start <= MAX_BLOCK) return;
    this.#open.kind = "plain";
    this.#inPlain("-", end);
  }

  #close(end) {
    this.#push({ ...this.#open, end: Math.min(end, this.#text.length), closed: true });
    this.#open = null;
  }

  #push({ kind, start, end, closed, from, to, language }) {
    if (kind !== "plain") {
      this.#blocks.push({ kind, start, end, closed, from, to, language });
      return;
    }
    for (const [first, last] of pieces(this.#text, start, end)) {
      this.#blocks.push({ kind, start: first, end: last, closed: closed || last < end });
    }
  }
}

/**
 * Cuts a part of a text into pieces of `PIECE` characters at most, at line ends where possible.
 * @param {string} text
 * @param {number} [start]
 * @param {number} [end]
 * @returns {Generator<[number, number]>} the first character of each piece, and after its last
 */
export function* pieces(text, start = 0, end = text.length) {
  while (start < end) {
    let cut = Math.min(start + PIECE, end);
    if (cut < end) {
      const lineEnd = text.slice(start, cut).lastIndexOf("\n");
      if (lineEnd > 0) cut = start + lineEnd + 1;
      else if (isLowSurrogate(text, cut)) cut -= 1;
    }
    yield [start, cut];
    start = cut;
  }
}

function isLowSurrogate(text, index) {
  const unit = text.charCodeAt(index);
  return unit >= 0xdc00 && unit <= 0xdfff;
}

/**
 * Whether two descriptions of a block have the same content, given that the text only grew.
 * @param {Block|undefined} one
 * @param {Block} other
 */
export function sameBlock(one, other) {
  return (
    one !== undefined &&
    one.kind === other.kind &&
    one.start === other.start &&
    one.end === other.end &&
    one.from === other.from &&
    one.to === other.to &&
    one.closed === other.closed &&
    one.language === other.language
  );
}
