// The answer so far: its tokens, coloured by their probability, and the branches that were left.

import { classes, html, useState } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { Button } from "../../parts/button.js";
import { announce } from "../../parts/live.js";
import { append, goBack, parting, takeBranch, textOf, visible } from "./answer.js";
import { share } from "./bars.js";

/** From 0 (surprising) to 4 (nearly certain). */
function level(probability) {
  if (probability === undefined) return 4;
  return [0.02, 0.1, 0.3, 0.7].filter((border) => probability >= border).length;
}

export function Strip({ state, change, result, isCurrent }) {
  const { answer, branches } = state;
  const best = result?.steps[0].tokens[0];
  const likeliest = result?.final.tokens[0] ?? best;
  const add = (token) => {
    change((old) => append(old, { id: token.id, piece: token.piece, bytes: token.bytes, probability: token.probability }));
    announce(t("lab.appended", { token: visible(token) }));
  };
  const back = (place) => {
    change((old) => goBack(old, place));
    announce(t("lab.went_back", { count: answer.length - place }));
  };
  return html`<section class="card" aria-labelledby="lab-answer">
    <h2 id="lab-answer">${t("lab.answer")}</h2>
    ${answer.length === 0
      ? html`<p class="muted">${t("lab.no_answer")}</p>`
      : html`<${Tokens} tokens=${answer} onBack=${back} />
        <p class="help small muted">${t("lab.back_help")}</p>`}
    <div class="row">
      <${Button} icon="star" disabled=${!isCurrent} onClick=${() => add(likeliest)}>${t("lab.likeliest")}<//>
      <${Button} icon="play" disabled=${!isCurrent} onClick=${() => add(result.drawn)}>${t("lab.sampled")}<//>
      <${Button} icon="back" disabled=${!answer.length} onClick=${() => back(answer.length - 1)}>${t("lab.undo")}<//>
      <${Button} icon="close" disabled=${!answer.length} onClick=${() => back(0)}>${t("lab.clear")}<//>
    </div>
    <${Branches} answer=${answer} branches=${branches} onTake=${(index) => change((old) => takeBranch(old, index))} />
  </section>`;
}

/** Tokens as buttons in one tab stop: arrow keys move among them. */
function Tokens({ tokens, onBack }) {
  const [at, setAt] = useState(tokens.length - 1);
  const current = Math.min(at, tokens.length - 1);
  const move = (event) => {
    const rtl = getComputedStyle(event.currentTarget).direction === "rtl" ? -1 : 1;
    const step = { ArrowRight: rtl, ArrowLeft: -rtl, Home: -tokens.length, End: tokens.length }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = Math.min(tokens.length - 1, Math.max(0, current + step));
    setAt(next);
    event.currentTarget.children[next].focus();
  };
  return html`<div class="strip" role="toolbar" aria-label=${t("lab.tokens_of_answer")} onKeyDown=${move} dir="auto">
    ${tokens.map((token, place) => html`<button type="button" key=${place} tabindex=${place === current ? 0 : -1}
        class=${`token level-${level(token.probability)}`} onFocus=${() => setAt(place)} onClick=${() => onBack(place)}
        title=${token.probability === undefined ? undefined : share(token.probability)}
        aria-label=${t("lab.back_to", { token: visible(token), probability: share(token.probability ?? 1) })}>${visible(token)}</button>`)}
  </div>`;
}

function Branches({ answer, branches, onTake }) {
  if (!branches.length) return null;
  return html`<details class="branches" open>
    <summary>${t("lab.branches", { count: branches.length })}</summary>
    <ul>
      ${branches.map((branch, index) => {
        const place = parting(answer, branch);
        return html`<li key=${branch.map(({ id }) => id).join(" ")}>
          <${Button} icon="branch" onClick=${() => onTake(index)}>
            <span class="muted">${place ? "…" : ""}</span><bdi>${textOf(branch.slice(place)) || t("lab.same_beginning")}</bdi><//>
        </li>`;
      })}
    </ul>
  </details>`;
}
