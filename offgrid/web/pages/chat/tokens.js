/** An answer whose tokens are coloured by their probability. */

import { classes, html, useEffect, useMemo, useRef, useState } from "../../lib/dom.js";
import { percent, t } from "../../lib/i18n.js";
import { visibleParts } from "../../lib/markdown/visible.js";
import { Button } from "../../parts/button.js";

/** The lowest probability of each colour. */
const LEVELS = [0.9, 0.6, 0.3, 0.1];

/**
 * The colour of a probability: 0 for the most likely, 4 for the least likely tokens. Pure.
 * @param {number} logprob
 */
export function levelOf(logprob) {
  const probability = Math.exp(logprob);
  const level = LEVELS.findIndex((least) => probability >= least);
  return level < 0 ? LEVELS.length : level;
}

/** A token as it can be seen: white space as signs, hidden characters by their names. Pure. */
export function visibleToken(text) {
  const signs = text.replaceAll("\n", "\u21b5").replaceAll("\t", "\u21e5").replaceAll(" ", "\u2423");
  return visibleParts(signs).map((part) => (typeof part === "string" ? part : `[${part.label}]`)).join("");
}

/** Probabilities below this are not told apart. */
const LEAST = 0.0001;

function share(logprob) {
  const probability = Math.exp(logprob);
  return probability < LEAST ? `< ${percent(LEAST, 2)}` : percent(probability, 2);
}

/**
 * @param {object} props `tokens` (see answer.js); `onOpen(index)`: opens the lab at a token
 */
export function Tokens({ tokens, count = tokens.length, onOpen }) {
  const [active, setActive] = useState(null);
  const root = useRef(null);
  // Tokens are only added, so the elements of those that are shown stay as they are.
  const elements = useRef([]);
  for (let index = elements.current.length; index < count; index += 1) {
    elements.current.push(tokenElement(tokens[index], index));
  }
  const indexOf = (target) => {
    const element = target.closest?.("[data-token]");
    return element ? Number(element.dataset.token) : null;
  };
  const point = (event) => {
    const index = indexOf(event.target);
    if (index !== null && index !== active) setActive(index);
  };
  const click = (event) => {
    const index = indexOf(event.target);
    if (index === null) return;
    // A finger has no way to point, so its first touch shows, and the card's button opens.
    if (event.pointerType === "mouse") onOpen(index);
    else setActive(index);
  };
  useMark(root, active);
  return html`<div class="tokens-box" onMouseLeave=${() => setActive(null)}>
    <div class="tokens" ref=${root} tabindex="0" role="group" aria-label=${t("chat.tokens_label")} dir="auto"
      onMouseOver=${point} onClick=${click} onKeyDown=${(event) => move(event, active, count, setActive, onOpen)}>
      ${elements.current}
    </div>
    ${active !== null && tokens[active] && html`<${Card} token=${tokens[active]} root=${root} index=${active} onOpen=${() => onOpen(active)} />`}
  </div>`;
}

function tokenElement({ text, logprob }, index) {
  return html`<span key=${index} data-token=${index} class=${`token level-${levelOf(logprob)}`}>${text}</span>`;
}

function move(event, active, count, setActive, onOpen) {
  const isRtl = getComputedStyle(event.currentTarget).direction === "rtl";
  const steps = { ArrowRight: isRtl ? -1 : 1, ArrowLeft: isRtl ? 1 : -1, Home: -count, End: count };
  if (event.key === "Enter" && active !== null) onOpen(active);
  else if (event.key === "Escape" && active !== null) setActive(null);
  else if (steps[event.key]) {
    const next = active === null ? 0 : active + steps[event.key];
    setActive(Math.max(0, Math.min(count - 1, next)));
  } else return;
  event.preventDefault();
  event.stopPropagation();
}

/** Marks the active token without rendering thousands of others again. */
function useMark(root, active) {
  useEffect(() => {
    if (active === null) return undefined;
    const element = root.current.querySelector(`[data-token="${active}"]`);
    element?.classList.add("active");
    element?.scrollIntoView({ block: "nearest" });
    return () => element?.classList.remove("active");
  }, [active]);
}

/** The alternatives of a token. */
function Card({ token, root, index, onOpen }) {
  const card = useRef(null);
  useEffect(() => {
    const follow = () => place(card.current, root.current, index);
    follow();
    addEventListener("scroll", follow, { capture: true, passive: true });
    return () => removeEventListener("scroll", follow, { capture: true });
  }, [index]);
  const rows = useMemo(() => rowsOf(token), [token]);
  return html`<div class="token-card" popover="manual" ref=${card} role="status">
    <table>
      <caption class="unseen">${t("chat.alternatives")}</caption>
      <tbody>${rows.map(({ text, logprob, isChosen }) => html`<tr key=${text} class=${classes(isChosen && "chosen")}>
        <td><bdi>${visibleToken(text)}</bdi></td>
        <td class="number">${share(logprob)}</td>
        <td class="bar-cell"><meter min="0" max="1" value=${Math.exp(logprob)} aria-hidden="true"></meter></td>
      </tr>`)}</tbody>
    </table>
    <${Button} icon="lab" onClick=${onOpen}>${t("chat.open_lab")}<//>
  </div>`;
}

/** The alternatives with the token itself, the most likely one first. */
function rowsOf({ text, logprob, others }) {
  const rows = others.map(([other, value]) => ({ text: other, logprob: value, isChosen: other === text }));
  if (!rows.some(({ isChosen }) => isChosen)) rows.push({ text, logprob, isChosen: true });
  return rows.sort((one, two) => two.logprob - one.logprob);
}

/** Puts the card below its token, or above it if there is no room. */
function place(card, root, index) {
  const token = root.querySelector(`[data-token="${index}"]`);
  if (!card || !token) return;
  // In the top layer nothing cuts it off.
  if (!card.matches(":popover-open")) card.showPopover();
  const at = [...token.getClientRects()].at(-1) ?? token.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = card;
  const below = at.bottom + 2;
  card.style.left = `${Math.max(4, Math.min(at.left, innerWidth - width - 4))}px`;
  card.style.top = `${below + height > innerHeight ? Math.max(4, at.top - height - 2) : below}px`;
}
