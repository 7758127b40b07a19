// Drawings of 24 by 24 units, in lines of the text's colour.

import { html } from "../lib/dom.js";

const PATHS = {
  alert: "M12 4 2.5 20h19L12 4Zm0 6v4m0 3v.01",
  attach: "M20 11.5 12 19.500a5 5 0 0 1-7.100-7.100l8.500-8.500a3.300 3.300 0 0 1 4.700 4.700l-8.500 8.500a1.700 1.700 0 0 1-2.400-2.400l7.800-7.800",
  back: "M15 5l-7 7 7 7",
  branch: "M7 4v9a4 4 0 0 0 4 4h6m0 0-3-3m3 3-3 3M7 9h10m0 0-3-3m3 3-3 3",
  camera: "M4 8h3l2-3h6l2 3h3v11H4V8Zm8 2.500a3 3 0 1 0 0 6 3 3 0 0 0 0-6Z",
  chat: "M4 5h16v11H10l-5 4v-4H4V5Z",
  check: "M5 12.500l4.500 4.500L19 7.500",
  close: "M6 6l12 12M18 6 6 18",
  copy: "M9 9h11v11H9V9ZM5 15H4V4h11v1",
  down: "M5 9l7 7 7-7",
  download: "M12 4v11m0 0-4-4m4 4 4-4M5 20h14",
  edit: "M4 20l1-4L16 5l3 3L8 19l-4 1Z",
  eject: "M12 5l7 9H5l7-9ZM5 18h14",
  eye: "M2.500 12S6 6 12 6s9.500 6 9.500 6-3.500 6-9.500 6-9.500-6-9.500-6Zm9.500-2.500a2.500 2.500 0 1 0 0 5 2.500 2.500 0 0 0 0-5Z",
  forward: "M9 5l7 7-7 7",
  image: "M4 5h16v14H4V5Zm0 11 5-5 4 4 3-3 4 4M15.500 9v.01",
  info: "M12 3.500a8.500 8.500 0 1 0 0 17 8.500 8.500 0 0 0 0-17Zm0 7.500v5m0-8v.01",
  key: "M14.500 4a5.500 5.500 0 1 0-4.700 8.300L4 18v3h3v-2h2v-2h2l1.700-3.200A5.500 5.500 0 0 0 14.500 4Zm1 4v.01",
  lab: "M9 3h6m-5 0v6L4.500 18.500A1.700 1.700 0 0 0 6 21h12a1.700 1.700 0 0 0 1.500-2.500L14 9V3M7.500 14.500h9",
  machine: "M4 13a8 8 0 0 1 16 0m-8 0 4-4M3.500 18h17",
  menu: "M4 6h16M4 12h16M4 18h16",
  models: "M12 3l8 4.500v9L12 21l-8-4.500v-9L12 3Zm0 9 8-4.500M12 12 4 7.500M12 12v9",
  more: "M5 12v.01M12 12v.01M19 12v.01",
  pin: "M9 4h6l-1 6 3 3v2H7v-2l3-3-1-6Zm3 11v6",
  play: "M7 5l12 7-12 7V5Z",
  plus: "M12 5v14M5 12h14",
  retry: "M19 8a8 8 0 1 0 1 6M20 4v5h-5",
  search: "M10.500 4a6.500 6.500 0 1 0 0 13 6.500 6.500 0 0 0 0-13Zm5 11.500L20 20",
  send: "M12 20V5m0 0-6 6m6-6 6 6",
  settings: "M4 7h9m5 0h2M4 17h2m5 0h9M15.500 4.500a2.500 2.500 0 1 0 0 5 2.500 2.500 0 0 0 0-5ZM8.500 14.500a2.500 2.500 0 1 0 0 5 2.500 2.500 0 0 0 0-5Z",
  star: "M12 4l2.500 5.200 5.500.8-4 4 1 5.600-5-2.700-5 2.700 1-5.600-4-4 5.500-.8L12 4Z",
  stop: "M7 7h10v10H7V7Z",
  tool: "M14.500 6.500a4 4 0 0 1 5-2L17 7l.5 2.500L20 9l1-1a4 4 0 0 1-6 5L8 20l-3.500-3.500 7.500-7a4 4 0 0 1 2.500-3Z",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v6m4-6v6",
  upload: "M12 16V5m0 0L8 9m4-4 4 4M5 20h14",
};

/** Names that turn round where text runs from right to left. */
const DIRECTED = new Set(["back", "forward", "branch"]);

/** A drawing. It says nothing to screen readers; the button around it has the label. */
export function Icon({ name }) {
  return html`<svg class=${`icon${DIRECTED.has(name) ? " directed" : ""}`} viewBox="0 0 24 24" aria-hidden="true" focusable="false">
    <path d=${PATHS[name]} />
  </svg>`;
}
