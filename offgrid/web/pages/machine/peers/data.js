// What is known of other machines, in words. Pure, but for words.

import { list, t } from "../../../lib/i18n.js";
import { limitTexts } from "../../../parts/grant.js";

const USUAL_PORT = 11612;

/** The kind of the badge for a state of a machine. */
export const TONES = { connected: "good", unreachable: "warn", refused: "danger" };

/** Return an address as it is typed on another machine: with the port if it is not the usual one. */
export function addressOf(host, port) {
  if (port === USUAL_PORT) return host;
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Return the addresses of a machine, such as "192.168.1.7". */
export function addressesOf({ addresses, port }) {
  return addresses.map((host) => addressOf(host, port));
}

/** Return the command that pairs another machine with this one. */
export function commandFor(self, code) {
  const [address] = addressesOf(self);
  return `offgrid peers pair ${address ?? self.name} ${code}`;
}

/** Which models of this machine another one may use, in words. */
export function modelsText({ models_allowed: models }) {
  return models === null ? t("keys.all_models") : list(models);
}

/** The limits of another machine here, in words. */
export function limitsText({ limits }) {
  return list(limitTexts(limits)) || t("keys.no_limits");
}

/** Return machines in two lists: those that were paired, and those that were only found. */
export function sorted(machines) {
  const byName = [...machines].sort((a, b) => a.name.localeCompare(b.name));
  return { paired: byName.filter(({ paired }) => paired), found: byName.filter(({ paired }) => !paired) };
}

/**
 * Return how long a code is still valid, in seconds. The clock of the server may be wrong, and so may
 * that of the browser, so only the server's is used.
 * @param {{expires_at: number}} pairing
 * @param {string|null} date the header Date of the response
 */
export function secondsLeft(pairing, date) {
  const now = Date.parse(date ?? "") / 1000;
  return Math.max(0, pairing.expires_at - (Number.isFinite(now) ? now : Date.now() / 1000));
}

/** A time such as 4:05. */
export function clock(seconds) {
  const whole = Math.ceil(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
