/** Whose a conversation is. What was written with one key must not be sent with that of somebody else. */

import { keyStore } from "../../../lib/key.js";
import { keyId } from "../../../lib/self.js";

/** The user of the key that is in use now; also with the key's next secret. */
export class Owner {
  #key;
  #id = null;

  constructor() {
    this.take();
  }

  /** Whether the key in use is the owner's. While the server has not told whose a new key is, it is not. */
  get isHere() {
    if (keyStore.value === this.#key) return true;
    // Without keys, everybody has the same history; and who opens the page without one is asked for it.
    if (this.#key === null || this.#id === "") return true;
    const id = keyId();
    return id !== null && id === this.#id;
  }

  /** Note the key in use, which is the owner's. Returns whether it is another one than before. */
  take() {
    const isOther = keyStore.value !== this.#key;
    this.#id = keyId() ?? (isOther ? null : this.#id);
    this.#key = keyStore.value;
    return isOther;
  }
}
