// What the key of this browser may do.

import { api } from "./api.js";
import { connection } from "./connection.js";
import { declined, keyStore } from "./key.js";
import { Store } from "./store.js";

/** {needed, id, name, scopes}: null until the server has told. */
export const self = new Store(null);

/** Whether the key has a scope. While nothing is known, it has none. */
export function may(scope, known = self.value) {
  return Boolean(known?.scopes.includes(scope));
}

/** What the server has told last, and about which key. */
let told = { key: null, known: null };

/** The id of the key in use; empty if the server needs none, null while that is not known. */
export function keyId() {
  const { key, known } = told;
  if (key !== keyStore.value || !known) return null;
  return known.needed === false ? "" : known.id ?? null;
}

let turn = 0;

/** Ask the server. A key that is missing is asked for by the first request that needs it. */
export async function learnSelf() {
  const own = ++turn;
  const key = keyStore.value;
  // An answer about an earlier key may come after that about the present one.
  const tell = (known) => {
    if (own !== turn) return;
    told = { key, known };
    self.set(known);
  };
  try {
    tell(await api.get("v1/keys/self"));
    declined.set(false); // perhaps the server needs none any more
  } catch (error) {
    if (!error.isAway) tell({ needed: true, name: null, scopes: [] });
  }
}

keyStore.subscribe(learnSelf);
connection.subscribe(({ online, times }) => {
  if (online && times) learnSelf();
});
