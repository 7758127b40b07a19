// Observable values, and the hook with which components follow them.

import { useEffect, useState } from "./dom.js";

/** A value that tells its subscribers when it changes. */
export class Store {
  #value;
  #subscribers = new Set();

  constructor(value) {
    this.#value = value;
  }

  get value() {
    return this.#value;
  }

  /** Replace the value, or compute it from the old one. An equal value tells no subscriber. */
  set(next) {
    const value = typeof next === "function" ? next(this.#value) : next;
    if (Object.is(value, this.#value)) return;
    this.#value = value;
    for (const tell of [...this.#subscribers]) tell(value);
  }

  /** Change some members of an object. */
  patch(members) {
    this.set({ ...this.#value, ...members });
  }

  /** Call a function at every change. Returns the function that ends it. */
  subscribe(tell) {
    this.#subscribers.add(tell);
    return () => this.#subscribers.delete(tell);
  }
}

/**
 * Return the value of a store, or a part of it, and render again when that changes.
 * @template T, R
 * @param {Store} store
 * @param {(value: T) => R} [select]
 */
export function useStore(store, select = (value) => value) {
  const [, renew] = useState({});
  const selected = select(store.value);
  useEffect(() => {
    let last = selected;
    const look = () => {
      const now = select(store.value);
      if (!Object.is(now, last)) {
        last = now;
        renew({});
      }
    };
    look(); // it may have changed between the rendering and this effect
    return store.subscribe(look);
  }, [store]);
  return selected;
}
