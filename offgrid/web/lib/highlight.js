/** Colours of code. The highlighter and its grammars are fetched when code needs them. */

import { cleanHighlighted } from "./markdown/parse.js";

const GRAMMARS = new Set([
  "bash", "c", "cpp", "css", "diff", "go", "ini", "java", "javascript", "json", "markdown",
  "python", "rust", "sql", "typescript", "xml", "yaml",
]);

const ALIASES = {
  "c++": "cpp", cc: "cpp", cfg: "ini", conf: "ini", console: "bash", cxx: "cpp", golang: "go",
  h: "c", hpp: "cpp", html: "xml", js: "javascript", json5: "json", jsonc: "json", jsonl: "json",
  jsx: "javascript", md: "markdown", mjs: "javascript", patch: "diff", py: "python",
  python3: "python", rs: "rust", sh: "bash", shell: "bash", svg: "xml", toml: "ini",
  ts: "typescript", tsx: "typescript", yml: "yaml", zsh: "bash",
};

let core;
const loaded = new Map();

/**
 * The grammar for a language, or nothing if there is none.
 * @param {string} language as an author writes it after a fence
 * @returns {string|undefined}
 */
export function grammarOf(language) {
  const name = language.toLowerCase();
  const grammar = Object.hasOwn(ALIASES, name) ? ALIASES[name] : name;
  return GRAMMARS.has(grammar) ? grammar : undefined;
}

/**
 * Colours code.
 * @param {string} text
 * @param {string} language
 * @returns {DocumentFragment|null|Promise<DocumentFragment|null>} nothing if the language is not
 *     known; a promise if the grammar has to be fetched
 */
export function highlight(text, language) {
  const grammar = grammarOf(language);
  if (!grammar) return null;
  if (loaded.get(grammar) === true) return colour(text, grammar);
  return fetchGrammar(grammar).then((ready) => (ready ? colour(text, grammar) : null));
}

async function fetchGrammar(name) {
  if (!loaded.has(name)) loaded.set(name, load(name));
  return loaded.get(name);
}

async function load(name) {
  try {
    const [library, grammar] = await Promise.all([
      import("../vendor/highlight/core.js"),
      import(`../vendor/highlight/languages/${name}.js`),
    ]);
    core = library.default;
    core.registerLanguage(name, grammar.default);
    loaded.set(name, true);
    return true;
  } catch {
    // Without a server there are no colours; the next code tries again.
    loaded.delete(name);
    return false;
  }
}

function colour(text, language) {
  try {
    return cleanHighlighted(core.highlight(text, { language, ignoreIllegals: true }).value);
  } catch {
    return null;
  }
}
