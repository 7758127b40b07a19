// What screen readers say while an answer arrives: whole sentences, not tokens.

import { html, useState } from "../lib/dom.js";
import { Store, useStore } from "../lib/store.js";

const said = new Store({ text: "", times: 0 });

/** Say a text. The same text twice is said twice. */
export function announce(text) {
  said.set(({ times }) => ({ text, times: times + 1 }));
}

/** Return where the last whole sentence of a text ends, from a position on; that position if none does. */
export function endOfSentences(text, from) {
  let end = from;
  const ends = /[.!?…。！？؟]["'”’»)\]]*\s|\n/g;
  ends.lastIndex = from;
  for (let found = ends.exec(text); found; found = ends.exec(text)) end = ends.lastIndex;
  return end;
}

/** Says the sentences of a growing text. */
export class Reader {
  #told = 0;

  /** Say the sentences that have become whole; at the end, the rest too. */
  read(text, isWhole = false) {
    const end = isWhole ? text.length : endOfSentences(text, this.#told);
    const part = text.slice(this.#told, end).trim();
    this.#told = end;
    if (part) announce(part);
  }
}

/**
 * The element that screen readers watch; once on the page, and once in each dialog: while one is
 * open, nothing around it is read.
 */
export function Live() {
  const { text, times } = useStore(said);
  const [before] = useState(times); // what was said then is not said again
  // Another element each time: an equal text would not be said again.
  return html`<div class="unseen" role="log" aria-live="polite">${times !== before && html`<p key=${times}>${text}</p>`}</div>`;
}
