// The key of this browser for the server, and the question for it.

import { onRemembered, recall, remember } from "./local.js";
import { Store } from "./store.js";

/** The key; null if there is none. */
export const keyStore = new Store(recall("key"));

/** A number that tells keys apart, and from which no key can be found (FNV-1a, 32 bits). It is part of
 * the names of what this browser remembers: who uses it with another key must not get that. */
export function keyMark() {
  let hash = 0x811c9dc5;
  for (const letter of keyStore.value ?? "") hash = Math.imul(hash ^ letter.codePointAt(0), 0x01000193);
  return (hash >>> 0).toString(36);
}

/** The question that waits for the user: null, or {message, answer(key|null)}. */
export const keyQuestion = new Store(null);

/** Whether the user has left the last question without giving a key. */
export const declined = new Store(false);

keyStore.subscribe(() => declined.set(false));
onRemembered("key", (key) => {
  // A key that was given in another tab is not asked for here again.
  if (key && keyQuestion.value) keyQuestion.value.answer(key);
  else keyStore.set(key);
});

let asking = null;

/**
 * Ask the user for a key, once however many requests need it.
 * @param {Error} error why the server refused the last request
 * @returns {Promise<boolean>} whether the user gave one
 */
export function askForKey(error) {
  asking ??= new Promise((resolve) => {
    keyQuestion.set({
      message: keyStore.value ? error.message : null,
      answer(key, keep = true) {
        keyQuestion.set(null);
        asking = null;
        if (key) useKey(key, keep);
        declined.set(!key);
        resolve(Boolean(key));
      },
    });
  });
  return asking;
}

/** Whether the key is remembered after this tab is closed. */
export function isKept() {
  return recall("key") !== null;
}

/** Use a key from now on; null forgets it. `keep`: also after this tab is closed. */
export function useKey(key, keep = true) {
  remember("key", keep ? key : null);
  keyStore.set(key);
}
