/** The conversations that the list shows: pages of the server's list, kept up to date. */

import { api } from "../../../lib/api.js";
import { Store } from "../../../lib/store.js";
import { PATH, isOff, isTemporary } from "./server.js";
import { watch } from "./watch.js";

const PAGE = 30;
/** The most conversations that the server returns at once. */
const MOST = 100;
const SEARCH_MS = 250;
/** Between two looks at the list while nothing is known to have changed. */
const POLL_MS = 15_000;
/** Between two looks because of changes: an answer that streams is stored every second. */
const LOOK_MS = 4_000;

/**
 * `items` are null until they were read. `stored` is false if the server keeps no history.
 * @typedef {{items: object[]|null, more: boolean, stored: boolean, busy: boolean, error: Error|null}} Entries
 */
export class Entries {
  /** @type {Store} of {@link Entries} */
  state = new Store({ items: null, more: false, stored: true, busy: false, error: null });

  #query = "";
  #turn = 0;
  #asking = new AbortController();
  #timer = null;
  #later = null;
  #lookedAt = -Infinity;
  #end = () => {};

  /** Read, and read again when something changes. Returns the function that ends it. */
  open() {
    this.#end = watch({
      look: () => this.#lookSoon(), back: () => this.refresh(), key: () => this.#forget(), every: POLL_MS,
    });
    this.refresh();
    return () => {
      this.#end();
      clearTimeout(this.#timer);
      clearTimeout(this.#later);
      this.#later = null;
      this.#turn += 1; // answers that come later are dropped
      this.#asking.abort();
    };
  }

  /** Read again, at once if the last time is long ago. */
  #lookSoon() {
    this.#later ??= setTimeout(() => {
      this.#later = null;
      this.#lookedAt = Date.now();
      this.refresh();
    }, Math.max(0, this.#lookedAt + LOOK_MS - Date.now()));
    this.#later.unref?.(); // a test must be able to end
  }

  /** Each key has its own history. */
  #forget() {
    this.state.patch({ items: null, more: false });
    this.refresh(true);
  }

  /** Show only conversations with these words. */
  search(query) {
    if (query === this.#query) return;
    this.#query = query;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.refresh(true), SEARCH_MS);
  }

  /** Read those that are shown once more; with `isNew`, the first page of another search. */
  async refresh(isNew = false) {
    const shown = isNew ? 0 : this.state.value.items?.length ?? 0;
    const limit = Math.min(MOST, Math.max(PAGE, shown));
    await this.#read({ limit }, (page) => {
      const known = new Set(page.data.map(({ id }) => id));
      const rest = page.has_more ? (this.state.value.items ?? []).slice(limit, shown).filter(({ id }) => !known.has(id)) : [];
      return { items: [...page.data, ...rest], more: rest.length ? this.state.value.more : page.has_more };
    });
  }

  /** Read the next page. */
  async readMore() {
    const { items } = this.state.value;
    await this.#read({ limit: PAGE, after: items.at(-1).id }, (page) => {
      const known = new Set(items.map(({ id }) => id));
      return { items: [...items, ...page.data.filter(({ id }) => !known.has(id))], more: page.has_more };
    });
  }

  async #read(parameters, join) {
    this.#turn += 1;
    const turn = this.#turn;
    this.#asking.abort(); // the server ends a search whose client leaves
    this.#asking = new AbortController();
    this.state.patch({ busy: true });
    try {
      const query = new URLSearchParams({ ...parameters, ...(this.#query && { query: this.#query }) });
      const page = await api.get(`${PATH}?${query}`, { signal: this.#asking.signal });
      if (turn === this.#turn) this.state.patch({ ...join(page), stored: true, busy: false, error: null });
    } catch (error) {
      if (turn === this.#turn) this.#failed(error);
    }
  }

  #failed(error) {
    if (isOff(error)) this.state.patch({ items: [], more: false, stored: false, busy: false, error: null });
    // The banner of the page says that the server is away; the list asks again by itself.
    else this.state.patch({ busy: false, error: isTemporary(error) ? null : error });
  }

  /** Change an item at once; the server is told by the caller. */
  patch(id, members) {
    this.state.patch({ items: this.state.value.items?.map((one) => (one.id === id ? { ...one, ...members } : one)) ?? null });
  }

  remove(id) {
    this.state.patch({ items: this.state.value.items?.filter((one) => one.id !== id) ?? null });
  }
}
