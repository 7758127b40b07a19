// Asking the server again and again, as long as somebody looks.

import { connection } from "../../lib/connection.js";
import { useEffect, useRef, useState } from "../../lib/dom.js";
import { keyStore } from "../../lib/key.js";

/**
 * Load a value now and then.
 *
 * Nothing is asked while the tab is hidden, while the server is away, or after it has refused the
 * key. The last value stays in the meantime.
 * @param {(signal: AbortSignal) => Promise<any>} load
 * @param {number} seconds between the end of an answer and the next question
 * @param {any} which another `which` begins anew, without a value
 * @returns {{value: any, error: Error|null, at: number|null, again: () => void}} `at`: when the value
 *     came, in seconds; `again` asks now
 */
export function usePolled(load, seconds, which = null) {
  const [state, setState] = useState({ which, value: null, error: null, at: null });
  const poller = useRef(null);
  const again = () => poller.current?.look();
  useEffect(() => {
    poller.current = new Poller(load, seconds, (change) => setState((old) => ({ ...(old.which === which ? old : {}), which, ...change })));
    return () => poller.current.end();
  }, [which]);
  return { ...(state.which === which ? state : { which, value: null, error: null, at: null }), again };
}

class Poller {
  #control = new AbortController();
  #timer = null;
  #busy = false;
  #stops = [];

  constructor(load, seconds, tell) {
    this.load = load;
    this.seconds = seconds;
    this.tell = tell;
    const look = () => this.look();
    document.addEventListener("visibilitychange", look);
    this.#stops = [
      () => document.removeEventListener("visibilitychange", look),
      connection.subscribe(look),
      keyStore.subscribe(look),
    ];
    look();
  }

  end() {
    this.#control.abort();
    clearTimeout(this.#timer);
    for (const stop of this.#stops) stop();
  }

  async look() {
    clearTimeout(this.#timer);
    if (this.#busy || document.hidden || !connection.value.online || this.#control.signal.aborted) return;
    this.#busy = true;
    let isRefused = false;
    try {
      const value = await this.load(this.#control.signal);
      this.#say({ value, error: null, at: Date.now() / 1000 });
    } catch (error) {
      isRefused = [401, 403].includes(error.status);
      if (!error.isAway) this.#say({ error });
    } finally {
      this.#busy = false;
    }
    if (!isRefused && !this.#control.signal.aborted) this.#timer = setTimeout(() => this.look(), this.seconds * 1000);
  }

  #say(change) {
    if (!this.#control.signal.aborted) this.tell(change);
  }
}
