// What a key allows: from the fields of the form to the body of the request. Pure, but for words.

import { t } from "../../lib/i18n.js";
import { limitFaults, limitFields, limitsOf } from "../../parts/grant.js";

/** Scopes in the order of the form. */
export const SCOPES = ["inference", "history", "models", "import", "stats", "peers", "admin"];
/** Choices for the end of a key; "keep" leaves it as it is. */
export const ENDS = ["never", "1d", "7d", "30d", "90d", "365d", "date"];

/** What the form shows for a new key, or for one that is to be changed. */
export function fieldsOf(key = null, isFirst = false) {
  return {
    name: key?.name ?? "",
    scopes: new Set(key?.scopes ?? (isFirst ? ["admin"] : ["inference", "history"])),
    all: !key?.models,
    models: new Set(key?.models ?? []),
    limits: limitFields(key?.limits),
    end: key ? "keep" : "never",
    date: "",
  };
}

/**
 * Return what is wrong with fields: {name: text}; empty if nothing is.
 * @param {object} fields of fieldsOf
 * @param {number} today in seconds since 1970
 */
export function faults(fields, today = Date.now() / 1000) {
  const found = limitFaults(fields.limits);
  if (!fields.name.trim()) found.name = t("keys.fault.name");
  if (!fields.scopes.size) found.scopes = t("keys.fault.scopes");
  if (!fields.all && !fields.models.size) found.models = t("keys.fault.models");
  if (fields.end === "date" && !(endOfDate(fields.date) > today)) found.date = t("keys.fault.date");
  return found;
}

/** Return the body of the request that makes a key like the fields. */
export function bodyOf(fields) {
  const body = {
    scopes: SCOPES.filter((scope) => fields.scopes.has(scope)),
    models: fields.all ? [] : [...fields.models],
    limits: limitsOf(fields.limits),
  };
  if (fields.end === "date") body.expires = endOfDate(fields.date);
  else if (fields.end !== "keep") body.expires = fields.end;
  return body;
}

/** The last second of a day such as "2027-01-31", where the user is: the day still counts. */
export function endOfDate(text) {
  const end = new Date(`${text}T23:59:59`).getTime() / 1000;
  return Number.isFinite(end) ? end : 0;
}
