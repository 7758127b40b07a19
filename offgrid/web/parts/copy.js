// Copying to the clipboard, also on pages without TLS, where browsers have no clipboard API.

import { html, useEffect, useState } from "../lib/dom.js";
import { t } from "../lib/i18n.js";
import { announce } from "./live.js";
import { IconButton } from "./button.js";

/** Copy a text. @returns {Promise<boolean>} whether it worked */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

function copyBySelection(text) {
  const before = document.activeElement;
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "unseen";
  // Outside an open dialog, nothing can be focused.
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  try {
    return document.execCommand("copy");
  } finally {
    area.remove();
    before?.focus?.();
  }
}

/** A button that copies; `text` is a string, or a function that returns one. */
export function CopyButton({ text, label }) {
  const [done, setDone] = useState(false);
  useEffect(() => {
    if (!done) return undefined;
    const timer = setTimeout(() => setDone(false), 2000);
    return () => clearTimeout(timer);
  }, [done]);
  const run = async () => {
    const worked = await copy(typeof text === "function" ? text() : text);
    setDone(worked);
    announce(t(worked ? "app.copied" : "app.not_copied"));
  };
  return html`<${IconButton} icon=${done ? "check" : "copy"} label=${label ?? t("app.copy")} onClick=${run} />`;
}
