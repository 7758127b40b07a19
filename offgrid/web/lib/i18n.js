// The page's words, numbers and dates in the user's language.

import { recall, remember } from "./local.js";
import { Store } from "./store.js";

/** Languages, in the order of the menu: code, name in the language itself, direction. */
export const LANGUAGES = [
  { code: "en", name: "English", dir: "ltr" },
  { code: "de", name: "Deutsch", dir: "ltr" },
  { code: "fr", name: "Français", dir: "ltr" },
  { code: "es", name: "Español", dir: "ltr" },
  { code: "pt", name: "Português", dir: "ltr" },
  { code: "ar", name: "العربية", dir: "rtl" },
];

/** The language in use. Components that show words follow it through the root component. */
export const language = new Store("en");

let words = {};
let english = {};

/** Choose the best language for a list of wishes such as ["pt-BR", "en"]. Pure. */
export function bestLanguage(wishes) {
  for (const wish of wishes) {
    const found = LANGUAGES.find(({ code }) => code === wish?.toLowerCase().split("-")[0]);
    if (found) return found.code;
  }
  return "en";
}

/** Load the words of the remembered language, or of the browser's. */
export async function startLanguage() {
  const chosen = recall("language");
  await Promise.all([
    load("en").then((loaded) => { english = loaded; }),
    setLanguage(bestLanguage(chosen ? [chosen] : navigator.languages ?? [])),
  ]);
}

/** Use a language from now on; if `keep`, also after a reload. */
export async function setLanguage(code, keep = false) {
  words = await load(code);
  if (keep) remember("language", code);
  document.documentElement.lang = code;
  document.documentElement.dir = LANGUAGES.find((one) => one.code === code).dir;
  language.set(code);
}

async function load(code) {
  const response = await fetch(new URL(`../strings/${code}.json`, import.meta.url));
  return response.ok ? response.json() : {};
}

/** Use given words; for tests. */
export function useWords(code, given) {
  words = english = given;
  language.set(code);
}

/**
 * Return a text: t(name, {count: 3}).
 *
 * A text is a string with {name} for values, or an object with a string per plural category of
 * `count` (Intl.PluralRules). Numbers are written in the form of the language.
 */
export function t(name, values = {}) {
  const text = find(words, name) ?? find(english, name);
  if (text === undefined) return name;
  const chosen = typeof text === "string" ? text : plural(text, values.count);
  return chosen.replace(/\{(\w+)\}/g, (whole, key) => {
    const value = values[key];
    if (value === undefined) return whole;
    return typeof value === "number" ? number(value) : String(value);
  });
}

function find(tree, name) {
  return name.split(".").reduce((part, key) => (part == null ? undefined : part[key]), tree);
}

function plural(text, count) {
  return text[new Intl.PluralRules(language.value).select(count)] ?? text.other;
}

const formats = new Map();

function formatOf(kind, options) {
  const name = `${language.value}${kind.name}${JSON.stringify(options)}`;
  let format = formats.get(name);
  if (!format) formats.set(name, (format = new kind(language.value, options)));
  return format;
}

/** A number, such as 1,234.5. */
export function number(value, options = {}) {
  return formatOf(Intl.NumberFormat, options).format(value);
}

/** A share between 0 and 1 as a percentage. */
export function percent(value, digits = 1) {
  return number(value, { style: "percent", maximumFractionDigits: digits });
}

const UNITS = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];

/** A number of bytes with a unit, in powers of 1000 as on the packages of sticks and disks. */
export function bytes(value) {
  let unit = 0;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const maximumFractionDigits = unit === 0 || value >= 100 ? 0 : 1;
  return number(value, { style: "unit", unit: UNITS[unit], unitDisplay: "short", maximumFractionDigits });
}

/** A number of seconds, rounded to its largest units: 1 hr, 5 min. */
export function duration(seconds) {
  const unit = (value, name) => number(Math.round(value), { style: "unit", unit: name, unitDisplay: "short" });
  if (seconds < 10) {
    return number(seconds, { style: "unit", unit: "second", unitDisplay: "short", maximumFractionDigits: 1 });
  }
  if (seconds < 60) return unit(seconds, "second");
  if (seconds < 3600) return unit(seconds / 60, "minute");
  if (seconds < 86_400) return `${unit(Math.floor(seconds / 3600), "hour")} ${unit(Math.floor((seconds % 3600) / 60), "minute")}`;
  return unit(seconds / 86_400, "day");
}

/** Several texts in one: a, b, and c. */
export function list(texts) {
  return formatOf(Intl.ListFormat, {}).format(texts);
}

/** A time in seconds since 1970 as date and time. */
export function date(seconds, options = { dateStyle: "medium", timeStyle: "short" }) {
  return formatOf(Intl.DateTimeFormat, options).format(new Date(seconds * 1000));
}

/** A time in seconds since 1970 as seen from now: yesterday, in 3 hours. */
export function relative(seconds, now = Date.now() / 1000) {
  const difference = seconds - now;
  const size = Math.abs(difference);
  const [unit, length] =
    size < 60 ? ["second", 1] : size < 3600 ? ["minute", 60] : size < 86_400 ? ["hour", 3600] : ["day", 86_400];
  return formatOf(Intl.RelativeTimeFormat, { numeric: "auto" }).format(Math.round(difference / length), unit);
}
