// What the page remembers, and the questions that it asks the server.

import { api } from "../../lib/api.js";
import { connection } from "../../lib/connection.js";
import { useEffect, useRef, useState } from "../../lib/dom.js";
import { keyStore } from "../../lib/key.js";
import { recall, remember } from "../../lib/local.js";
import { useStore } from "../../lib/store.js";
import { requestOf } from "./settings.js";

const NAME = "lab";
const PAUSE_MS = 160; // while a slider moves, only its last value is asked for
const PATH = "v1/lab/distribution";

const INITIAL = {
  model: null, mode: "text", text: "The quick brown fox", system: "", settings: {}, seed: null, answer: [], branches: [], top: 20,
};

/** The state of the page, which a reload keeps. Returns it and the function that changes it. */
export function useLabState() {
  const [state, setState] = useState(() => ({ ...INITIAL, ...recall(NAME) }));
  useEffect(() => {
    const timer = setTimeout(() => remember(NAME, state), PAUSE_MS);
    return () => clearTimeout(timer);
  }, [state]);
  return [state, (change) => setState((old) => ({ ...old, ...(typeof change === "function" ? change(old) : change) }))];
}

/**
 * The server's answer about a state. An older question is given up when the state changes.
 * @returns {{result, error, waits, isCurrent}} `result`: the last answer, perhaps to an older
 *     question; `waits`: whether the present question has neither an answer nor an error yet
 */
export function useDistribution(state, again) {
  const [shown, setShown] = useState({ result: null, error: null, of: null });
  const body = JSON.stringify(requestOf(state));
  const { times: reconnected } = useStore(connection);
  useEffect(() => {
    const controller = new AbortController();
    const timer = setTimeout(async () => {
      try {
        const result = await api.post(PATH, JSON.parse(body), { signal: controller.signal });
        setShown({ result, error: null, of: body });
      } catch (error) {
        if (!controller.signal.aborted) setShown((old) => ({ ...old, error, of: body }));
      }
    }, PAUSE_MS);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [body, again, reconnected]);
  const { result, error, of } = shown;
  return { result, error, waits: of !== body, isCurrent: of === body && !error };
}

/** Counts of many draws. They are forgotten when the request changes. */
export function useSamples(state) {
  const [samples, setSamples] = useState(null);
  const [busy, setBusy] = useState(false);
  const running = useRef(null);
  const body = JSON.stringify(requestOf(state));
  useEffect(() => {
    setSamples(null);
    return () => running.current?.abort();
  }, [body]);
  const draw = async (n) => {
    running.current?.abort();
    const { signal } = (running.current = new AbortController());
    setBusy(true);
    try {
      const { samples: found, seed } = await api.post(PATH, { ...JSON.parse(body), samples: n }, { signal });
      setSamples({ ...found, seed });
    } finally {
      if (running.current?.signal === signal) setBusy(false);
    }
  };
  return { samples, busy, draw };
}

/**
 * The models that generate text, asked for again when the server or another key answers.
 * @returns {{models: object[]|null, error: Error|null, again: () => void}} null until they are known
 */
export function useModels() {
  const [state, setState] = useState({ models: null, error: null });
  const [times, setTimes] = useState(0);
  const { times: reconnected } = useStore(connection);
  const key = useStore(keyStore);
  useEffect(() => {
    const controller = new AbortController();
    api.get("v1/models", { signal: controller.signal }).then(
      ({ data }) => setState({ models: data.filter(({ kind }) => kind === "chat" || kind === "base"), error: null }),
      (error) => controller.signal.aborted || setState((old) => ({ ...old, error })),
    );
    return () => controller.abort();
  }, [times, reconnected, key]);
  return { ...state, again: () => setTimes(times + 1) };
}
