/** Finds formulas in a line of Markdown: `$x$`, `$$x$$`, `\(x\)`, `\[x\]`. */

/** Characters of a formula inside a text. */
const MAX_INLINE = 2_000;

const DELIMITERS = [
  { open: "$$", close: "$$", display: true },
  { open: "\\[", close: "\\]", display: true },
  { open: "\\(", close: "\\)", display: false },
  { open: "$", close: "$", display: false },
];

/**
 * Returns the formula at the beginning of a text, or nothing.
 *
 * A single `$` is usually money. It begins a formula only if no space follows it, and ends one only
 * if no space is before it and no digit after it, as in pandoc.
 * @param {string} text
 * @returns {{raw: string, tex: string, display: boolean}|undefined}
 */
export function formulaAt(text) {
  for (const { open, close, display } of DELIMITERS) {
    if (!text.startsWith(open)) continue;
    const end = open === "$" ? endOfDollar(text) : endOf(text, open, close);
    if (end === undefined) return undefined;
    const tex = text.slice(open.length, end);
    return { raw: text.slice(0, end + close.length), tex: tex.trim(), display };
  }
  return undefined;
}

function endOf(text, open, close) {
  const end = text.slice(0, MAX_INLINE).indexOf(close, open.length);
  return end > open.length && text.slice(open.length, end).trim() ? end : undefined;
}

function endOfDollar(text) {
  if (/\s/.test(text[1] ?? " ")) return undefined;
  const last = Math.min(text.length, MAX_INLINE);
  for (let index = 1; index < last; index += 1) {
    if (text[index] === "\\") index += 1;
    else if (text[index] === "\n" && text[index + 1] === "\n") return undefined;
    else if (text[index] === "$") {
      const closes = index > 1 && !/\s/.test(text[index - 1]) && !/\d/.test(text[index + 1] ?? "");
      return closes ? index : undefined;
    }
  }
  return undefined;
}

/**
 * Returns where the next formula may begin.
 * @param {string} text
 */
export function formulaStart(text) {
  const at = text.search(/\$|\\[([]/);
  return at < 0 ? undefined : at;
}
