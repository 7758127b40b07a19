/** Images of the user: read, turned the right way, and made as small as a model needs them. */

/** Pixels of the longer side. Projectors of vision models use fewer. */
const MAX_SIDE = 1_536;
/** Characters of all images of a message: a request may have 8 MiB. */
export const MAX_TOTAL = 6_000_000;
/** Images of a message. */
export const MAX_IMAGES = 8;

const QUALITY = 0.86;

/**
 * Reads an image.
 * @param {Blob} blob
 * @returns {Promise<string>} data URL of a JPEG, or of a PNG if that is smaller
 * @throws {Error} not an image that this browser can read
 */
export async function readImage(blob) {
  const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" });
  try {
    return draw(bitmap, bitmap.width, bitmap.height);
  } finally {
    bitmap.close();
  }
}

/**
 * The present image of a camera.
 * @param {HTMLVideoElement} video
 * @returns {string} data URL
 */
export function readFrame(video) {
  return draw(video, video.videoWidth, video.videoHeight);
}

function draw(source, width, height) {
  const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  // JPEG has no transparency; on black, dark drawings would be lost.
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  const jpeg = canvas.toDataURL("image/jpeg", QUALITY);
  const png = canvas.width * canvas.height <= 512 * 512 ? canvas.toDataURL("image/png") : jpeg;
  return png.length < jpeg.length ? png : jpeg;
}

/**
 * The images of a paste. Spreadsheets and word processors copy a picture of a text beside the text;
 * then the text is meant.
 * @param {DataTransfer|null} clipboard
 * @returns {File[]}
 */
export function pastedImages(clipboard) {
  return clipboard?.getData("text/plain") ? [] : imageFiles(clipboard);
}

/**
 * The image files of a paste or a drop.
 * @param {DataTransfer|null} transfer
 * @returns {File[]}
 */
export function imageFiles(transfer) {
  return [...(transfer?.files ?? [])].filter(({ type }) => type.startsWith("image/"));
}
