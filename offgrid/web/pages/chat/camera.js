/** Takes a picture with the camera of the device. */

import { html, useEffect, useRef, useState } from "../../lib/dom.js";
import { t } from "../../lib/i18n.js";
import { Button } from "../../parts/button.js";
import { Dialog } from "../../parts/dialog.js";
import { Problem } from "../../parts/field.js";
import { toast } from "../../parts/toast.js";
import { readFrame, readImage } from "./images.js";

/** @param {{onTake: (url: string) => void, onClose: () => void}} props */
export function Camera({ onTake, onClose }) {
  const video = useRef(null);
  const input = useRef(null);
  const { error, isReady } = useCamera(video);
  const choose = async ({ currentTarget }) => {
    const [file] = currentTarget.files;
    if (!file) return;
    try {
      onTake(await readImage(file));
    } catch {
      toast(t("chat.bad_image", { name: file.name }), { kind: "error" });
    }
  };
  const actions = html`
    <${Button} onClick=${onClose}>${t("app.cancel")}<//>
    ${error
      ? html`<${Button} kind="primary" icon="camera" onClick=${() => input.current.click()}>${t("chat.camera_app")}<//>`
      : html`<${Button} kind="primary" icon="camera" disabled=${!isReady} onClick=${() => onTake(readFrame(video.current))}>${t("chat.take")}<//>`}`;
  return html`<${Dialog} title=${t("chat.camera")} onClose=${onClose} actions=${actions}>
    ${error ? html`<${Problem} error=${error} />` : html`<video class="camera" ref=${video} autoplay muted playsinline></video>`}
    <input ref=${input} hidden type="file" accept="image/*" capture="environment" onChange=${choose} />
  <//>`;
}

/** Shows what the camera sees, as long as the dialog is open. */
function useCamera(video) {
  const [error, setError] = useState(null);
  const [isReady, setReady] = useState(false);
  useEffect(() => {
    let stream = null;
    let isOver = false;
    const end = () => stream?.getTracks().forEach((track) => track.stop());
    open().then((opened) => {
      stream = opened;
      if (isOver) return end();
      video.current.srcObject = stream;
      video.current.onloadeddata = () => setReady(true);
    }, (reason) => isOver || setError(reason.message));
    return () => {
      isOver = true;
      end();
    };
  }, []);
  return { error, isReady };
}

async function open() {
  // Browsers have the camera only on pages with TLS, and on those of the same machine.
  if (!navigator.mediaDevices?.getUserMedia) throw new Error(t("chat.camera_needs_tls"));
  try {
    return await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    throw new Error(t("chat.no_camera"));
  }
}
