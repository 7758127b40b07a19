/** Where the user writes: text, images, send and stop. */

import { html, useEffect, useLayoutEffect, useRef, useState } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { keyStore } from "../../lib/key.js";
import { useStore } from "../../lib/store.js";
import { Button, IconButton } from "../../parts/button.js";
import { toast } from "../../parts/toast.js";
import { Camera } from "./camera.js";
import { MAX_IMAGES, MAX_TOTAL, imageFiles, pastedImages, readImage } from "./images.js";
import { contentOf } from "./request.js";
import { recallDraft, recallImages, rememberDraft } from "./settings.js";

/**
 * @param {object} props `id`: of the conversation, whose draft is shown; `isRunning`; `seesImages`:
 *     whether the model does; `isEditing`: a message is being changed; `isAway`: nothing can be sent
 *     now; `onSend(content)`; `onStop`; `onEditLast`: the user pressed the arrow up in an empty field
 */
export function Composer({ id, isRunning, isEditing, seesImages, isAway, onSend, onStop, onEditLast }) {
  const { draft, change, area } = useDraft(id);
  const [camera, setCamera] = useState(false);
  const { text, images } = draft;
  const add = useAddImages(change, seesImages);
  const usable = seesImages ? images : [];
  const canSend = Boolean(text.trim() || usable.length) && !isRunning && !isAway;
  const send = () => {
    if (!canSend) return;
    onSend(contentOf(text.trim(), usable));
    // Images that this model cannot see stay for another one.
    change({ text: "", images: seesImages ? [] : images });
    area.current.focus();
  };
  const isOver = useDrop(add);
  const paste = (event) => {
    const files = pastedImages(event.clipboardData);
    if (!files.length) return;
    event.preventDefault();
    add(files);
  };
  useEffect(() => keepFocus(area.current), [isRunning, isEditing]);
  const press = (event) => pressed(event, { text, isRunning, send, onStop, onEditLast });
  return html`<form class=${`composer${isOver ? " over" : ""}`} onSubmit=${(event) => { event.preventDefault(); send(); }}>
    <${Attachments} images=${images} seesImages=${seesImages} onRemove=${(at) => change({ images: images.filter((_, index) => index !== at) })} />
    <textarea ref=${area} rows="1" dir="auto" aria-label=${t("chat.message_label")} placeholder=${t("chat.message_placeholder")}
      value=${text} enterkeyhint="send" onInput=${(event) => change({ text: event.currentTarget.value })} onKeyDown=${press} onPaste=${paste}></textarea>
    ${/* With keys, the click that stops does not also submit: the browser would find one button. */ ""}
    <div class="composer-row">
      ${seesImages && html`<${ImageButtons} onFiles=${add} onCamera=${() => setCamera(true)} />`}
      <span class="composer-space"></span>
      ${isRunning
        ? html`<${Button} key="stop" icon="stop" onClick=${onStop}>${t("chat.stop")}<//>`
        : html`<${Button} key="send" kind="primary" icon="send" type="submit" disabled=${!canSend}>${t("chat.send")}<//>`}
    </div>
    ${camera && html`<${Camera} onClose=${() => setCamera(false)} onTake=${(url) => { setCamera(false); change(withImage(url)); }} />`}
  </form>`;
}

/** Whether a key belongs to the input of a word: Enter ends that of a Japanese one, for example. */
export function isInput(event) {
  return event.isComposing || event.keyCode === 229; // Safari says only the number
}

function pressed(event, { text, isRunning, send, onStop, onEditLast }) {
  if (isInput(event)) return;
  if (event.key === "Enter" && !event.shiftKey && !event.altKey) {
    event.preventDefault();
    send();
  } else if (event.key === "Escape" && isRunning) {
    event.preventDefault();
    onStop();
  } else if (event.key === "ArrowUp" && !text && !isRunning) {
    event.preventDefault();
    onEditLast();
  }
}

/** The button that began or ended an answer is gone; without a focus the keyboard would be lost. */
function keepFocus(area) {
  const isLost = !document.activeElement || document.activeElement === document.body;
  if (isLost && matchMedia("(pointer: fine)").matches) area.focus({ preventScroll: true });
}

/**
 * Takes images that are dropped anywhere on the page: beside the field, the browser would show the
 * file instead of the page. Returns whether something is held over the page.
 */
function useDrop(add) {
  const [isOver, setOver] = useState(false);
  const now = useRef(add);
  now.current = add;
  useEffect(() => {
    const over = (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      setOver(true);
    };
    const leave = ({ relatedTarget }) => relatedTarget === null && setOver(false);
    const drop = (event) => {
      setOver(false);
      if (!hasFiles(event)) return;
      event.preventDefault();
      const files = imageFiles(event.dataTransfer);
      if (files.length) now.current(files);
    };
    const all = { dragover: over, dragleave: leave, drop };
    for (const [name, listen] of Object.entries(all)) addEventListener(name, listen);
    return () => {
      for (const [name, listen] of Object.entries(all)) removeEventListener(name, listen);
    };
  }, []);
  return isOver;
}

function hasFiles(event) {
  return [...(event.dataTransfer?.types ?? [])].includes("Files");
}

const NOTHING = { text: "", images: [] };

/** The draft of a conversation, which survives a reload. */
function useDraft(id) {
  const key = useStore(keyStore);
  const [draft, setDraft] = useState(() => recallDraft(id));
  const now = useRef({ id, key, draft });
  const area = useRef(null);
  if (now.current.id !== id) {
    // A conversation gets its id with its first message; what is written meanwhile moves with it.
    const { id: before, draft: kept } = now.current;
    const isMoved = before === null && Boolean(kept.text || kept.images.length);
    const moved = isMoved ? kept : recallDraft(id);
    if (isMoved) {
      rememberDraft(null, NOTHING);
      rememberDraft(id, moved);
    }
    now.current = { id, key, draft: moved };
    setDraft(moved);
  } else if (now.current.key !== key) {
    now.current.key = key;
    // Each key has its own drafts; but nothing that is on the screen is taken away.
    const { text, images } = now.current.draft;
    if (!text && !images.length) setDraft(now.current.draft = recallDraft(id));
  }
  // Changes are made to the present draft: reading an image takes a while.
  const change = (members) => {
    const { draft: old } = now.current;
    const next = { ...old, ...(typeof members === "function" ? members(old) : members) };
    now.current.draft = next;
    setDraft(next);
    rememberDraft(now.current.id, next);
  };
  useEffect(() => {
    const { images: none } = now.current.draft;
    // They come later, and must not replace what the user has done meanwhile.
    recallImages(id).then((images) => images.length && !none.length && now.current.draft.images === none && change({ images }));
  }, [id, key]);
  useLayoutEffect(() => fit(area.current), [draft.text]);
  useEffect(() => {
    if (matchMedia("(pointer: fine)").matches) area.current.focus({ preventScroll: true });
  }, [id]);
  return { draft, change, area };
}

/** Makes the field as high as its text, where the browser does not do so by itself. */
function fit(area) {
  if (CSS.supports("field-sizing", "content")) return;
  area.style.blockSize = "auto";
  area.style.blockSize = `${Math.min(area.scrollHeight + 2, innerHeight * 0.4)}px`;
}

function useAddImages(change, seesImages) {
  return async (files) => {
    if (!seesImages) {
      toast(t("chat.no_vision"));
      return;
    }
    for (const file of files) {
      try {
        change(withImage(await readImage(file)));
      } catch {
        toast(t("chat.bad_image", { name: file.name || t("chat.image") }), { kind: "error" });
      }
    }
  };
}

/** A change of a draft that adds an image; without room for it, it says so and changes nothing. */
function withImage(url) {
  return ({ images }) => {
    const size = images.reduce((sum, one) => sum + one.length, url.length);
    const problem = images.length >= MAX_IMAGES ? t("chat.too_many_images", { count: MAX_IMAGES })
      : size > MAX_TOTAL ? t("chat.images_too_large") : null;
    if (problem) toast(problem, { kind: "error" });
    return problem ? {} : { images: [...images, url] };
  };
}

function ImageButtons({ onFiles, onCamera }) {
  const input = useRef(null);
  const choose = (event) => {
    onFiles([...event.currentTarget.files]);
    event.currentTarget.value = "";
  };
  return html`
    <input ref=${input} hidden type="file" accept="image/*" multiple onChange=${choose} />
    <${IconButton} icon="attach" label=${t("chat.attach")} onClick=${() => input.current.click()} />
    <${IconButton} icon="camera" label=${t("chat.camera")} onClick=${onCamera} />`;
}

function Attachments({ images, seesImages, onRemove }) {
  if (!images.length) return null;
  return html`<div class="attachments">
    ${images.map((url, index) => html`<div key=${url.slice(-40) + index} class="attachment">
      <img src=${url} alt=${t("chat.image_number", { count: index + 1 })} />
      <${IconButton} icon="close" label=${t("chat.remove_image", { count: index + 1 })} onClick=${() => onRemove(index)} />
    </div>`)}
    ${!seesImages && html`<p class="muted small">${t("chat.no_vision")}</p>`}
  </div>`;
}
