/** Formulas as MathML. The library is fetched when a formula needs it. */

/** Characters of a formula. */
const MAX_SIZE = 8_000;
const MATHML = "http://www.w3.org/1998/Math/MathML";

const ATTRIBUTES = new Set([
  "accent", "accentunder", "class", "columnalign", "columnlines", "columnspacing", "columnspan",
  "depth", "display", "displaystyle", "fence", "form", "height", "largeop", "linethickness",
  "lspace", "mathvariant", "maxsize", "minsize", "movablelimits", "notation", "rowalign",
  "rowlines", "rowspacing", "rowspan", "rspace", "scriptlevel", "separator", "stretchy", "style",
  "symmetric", "voffset", "width",
]);

/** Styles of formulas; those that could move one over the page are not among them. */
const STYLES = new Set([
  "background-color", "border-bottom", "border-color", "border-left", "border-right",
  "border-style", "border-top", "border-width", "color", "display", "font-size", "font-style",
  "font-weight", "height", "math-depth", "math-style", "padding", "padding-bottom",
  "padding-left", "padding-right", "padding-top", "text-align", "width", "vertical-align",
  "font-family", "background", "border", "padding-block", "padding-inline",
]);

let library;
let failed = 0;

/**
 * Replaces an element that shows a formula as text by the formula, now or as soon as possible. The
 * text remains if it is not a formula.
 * @param {Element} element
 * @param {string} tex
 * @param {boolean} display whether it stands on a separate line
 */
export function showFormula(element, tex, display) {
  if (tex.length > MAX_SIZE || failed > 3) return;
  if (library) replace(element, tex, display);
  else load().then((ready) => ready && replace(element, tex, display));
}

let loading;

function load() {
  loading ??= import("../vendor/temml.js").then(
    (module) => {
      library = module.default;
      addStyle();
      return true;
    },
    () => {
      failed += 1;
      loading = undefined;
      return false;
    },
  );
  return loading;
}

/** Some formulas need the library's style sheet, and its font for script letters. */
function addStyle() {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("../vendor/temml.css", import.meta.url).href;
  document.head.append(link);
}

/**
 * Returns the MathML of a formula, or nothing if it has an error.
 * @param {object} temml the library
 * @param {string} tex
 * @param {boolean} display
 * @returns {Element|undefined}
 */
export function formulaElement(temml, tex, display) {
  const box = document.createElement("span");
  try {
    temml.render(tex, box, {
      displayMode: display,
      throwOnError: true,
      trust: false,
      maxExpand: 300,
      maxSize: [20, 300],
      annotate: false,
    });
  } catch {
    return undefined;
  }
  const math = box.querySelector("math");
  if (!math) return undefined;
  clean(math);
  math.dir = "ltr";
  return math;
}

function replace(element, tex, display) {
  const math = formulaElement(library, tex, display);
  if (!math) return;
  const box = document.createElement(display ? "div" : "span");
  box.className = display ? "formula-box display" : "formula-box";
  if (display) box.tabIndex = 0;
  box.append(math);
  element.replaceWith(box);
}

/** Removes everything that is no MathML, and attributes that formulas do not need. */
function clean(root) {
  for (const element of [root, ...root.querySelectorAll("*")]) {
    if (element.namespaceURI !== MATHML && element.localName !== "span") {
      element.remove();
      continue;
    }
    for (const { name } of [...element.attributes]) {
      if (!ATTRIBUTES.has(name)) element.removeAttribute(name);
    }
    for (const name of [...(element.style ?? [])]) {
      if (!STYLES.has(name)) element.style.removeProperty(name);
    }
  }
}
