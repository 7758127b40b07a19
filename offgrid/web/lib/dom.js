// The view library in one place: components import it from here.

import htm from "../vendor/htm.js";
import { Fragment, createContext, h, render } from "../vendor/preact.js";
import {
  useCallback, useContext, useEffect, useErrorBoundary, useId, useLayoutEffect, useMemo, useReducer,
  useRef, useState,
} from "../vendor/hooks.js";

/** Template tag for elements: html`<p class="x">${text}</p>`. Text is escaped. */
export const html = htm.bind(h);

export {
  Fragment, createContext, h, render, useCallback, useContext, useEffect, useErrorBoundary, useId,
  useLayoutEffect, useMemo, useReducer, useRef, useState,
};

/** Join the names of classes, without those that are false or empty. */
export function classes(...names) {
  return names.filter(Boolean).join(" ");
}
