// One key in the list.

import { classes, html } from "../../lib/dom.js";
import { date, list, number, relative, t } from "../../lib/i18n.js";
import { limitTexts } from "../../parts/grant.js";
import { Menu } from "../../parts/menu.js";
import { SCOPES } from "./grant.js";

const SOON = 7 * 86_400;

/** @param {object} props `shown`: a key; `used`: its totals or nothing; `own`: whether this browser uses it */
export function Key({ shown, used, own, onChange, onRotate, onRevoke }) {
  const items = shown.revoked === null && [
    { label: t("keys.change"), icon: "edit", run: onChange },
    { label: t("keys.rotate"), icon: "retry", run: onRotate },
    { label: t("keys.revoke"), icon: "trash", run: onRevoke, danger: true },
  ];
  return html`<li class=${classes("card key", !shown.valid && "ended")}>
    <header>
      <div class="row">
        <h2 dir="auto">${shown.name}</h2>
        ${own && html`<span class="badge good">${t("keys.own")}</span>`}
        <${End} of=${shown} />
      </div>
      ${items && html`<${Menu} label=${t("keys.actions", { name: shown.name })} items=${items} />`}
    </header>
    <p class="mono small muted" dir="ltr">${shown.prefix}…</p>
    <ul class="row scopes" aria-label=${t("keys.scopes")}>${SCOPES.filter((scope) => shown.scopes.includes(scope)).map((scope) => html`<li class="badge" key=${scope}>${t(`keys.scope.${scope}`)}</li>`)}</ul>
    <dl class="pairs small">
      <div><dt>${t("keys.models")}</dt><dd dir="auto">${shown.models ? shown.models.join(", ") : t("keys.all_models")}</dd></div>
      <div><dt>${t("keys.limits")}</dt><dd>${list(limitTexts(shown.limits)) || t("keys.no_limits")}</dd></div>
      <div><dt>${t("keys.last_used")}</dt><dd>${shown.last_used === null ? t("keys.never") : relative(shown.last_used)}</dd></div>
      ${used && html`<div><dt>${t("keys.requests")}</dt><dd>${number(used.requests)}</dd></div>
        <div><dt>${t("keys.tokens")}</dt><dd>${number(used.prompt + used.completion)}</dd></div>`}
      <div><dt>${t("keys.created")}</dt><dd>${date(shown.created, { dateStyle: "medium" })}</dd></div>
      ${shown.filter_file && html`<div><dt>${t("keys.filter")}</dt><dd class="mono" dir="ltr">${shown.filter_file}</dd></div>`}
    </dl>
  </li>`;
}

/** When it ends or has ended. */
function End({ of: { revoked, expires } }) {
  const now = Date.now() / 1000;
  if (revoked !== null) return html`<span class="badge danger">${t("keys.was_revoked", { time: date(revoked, { dateStyle: "medium" }) })}</span>`;
  if (expires === null) return null;
  const time = date(expires);
  if (expires <= now) return html`<span class="badge danger" title=${time}>${t("keys.expired", { time: relative(expires) })}</span>`;
  const kind = expires - now < SOON && "warn";
  return html`<span class=${classes("badge", kind)} title=${time}>${t("keys.expires_in", { time: relative(expires) })}</span>`;
}
