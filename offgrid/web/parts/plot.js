// Line plots in SVG, drawn for their real width so that text stays readable on a phone.

import { html, useEffect, useId, useRef, useState } from "../lib/dom.js";
import { number, t } from "../lib/i18n.js";

const HEIGHT = 160;
const PAD = { top: 10, right: 10, bottom: 24 };
/** Units of the drawing per character of the labels, and the space between label and drawing. */
const CHARACTER = 6.6;
const LABEL_GAP = 12;
/** Units between two labels below the drawing, at least. */
const X_LABEL = 84;

/**
 * Lines over time or another number.
 * @param {object} props
 *     `label`: what it shows, also for screen readers; `lines`: [{name, points: [[x, y], ...]}], y
 *     being null where nothing is known; `x`, `y`: functions that write a number of that axis;
 *     `least`, `most`: what the axis of y contains at least; `from`, `to`: the ends of the axis of x,
 *     if they are not those of the points; `xTicks(from, to, count)`: where that axis has labels;
 *     `summary`: what it shows in sentences, for all readers; `table`: whether all numbers can be read
 *     in a table, and `xLabel` the heading of its first column
 */
export function Plot({ label, lines, x = String, y = (value) => number(value), least = 0, most, from, to, xTicks, summary, table = false, xLabel = "" }) {
  const box = useRef(null);
  const id = useId();
  const width = useWidth(box);
  const [pointed, setPointed] = useState(null);
  const scale = scaleOf(lines, width, least, { most, from, to, y });
  const near = scale && pointed !== null ? nearest(lines, pointed) : null;
  const point = (event) => {
    const { left } = event.currentTarget.getBoundingClientRect();
    setPointed(scale ? scale.at(event.clientX - left) : null);
  };
  // A finger that has gone leaves its numbers for the eye.
  const leave = (event) => event.pointerType === "mouse" && setPointed(null);
  return html`<figure class="plot" ref=${box}>
    <svg width=${width} height=${HEIGHT} role="img" aria-label=${label} aria-describedby=${summary && id} direction="ltr"
      onPointerMove=${point} onPointerDown=${point} onPointerLeave=${leave}>
      ${scale && html`
        ${scale.ticks.map((value) => html`<g key=${value}>
          <line class="grid" x1=${scale.left} x2=${width - PAD.right} y1=${scale.y(value)} y2=${scale.y(value)} />
          <text x=${scale.left - LABEL_GAP / 2} y=${scale.y(value) + 4} text-anchor="end">${y(value)}</text>
        </g>`)}
        <${XAxis} scale=${scale} width=${width} x=${x} xTicks=${xTicks} />
        ${lines.map((line, index) => html`<path key=${line.name} class=${`line line-${index}`} d=${path(line.points, scale)} />`)}
        ${near !== null && html`<line class="pointer" x1=${scale.x(near)} x2=${scale.x(near)} y1=${PAD.top} y2=${HEIGHT - PAD.bottom} />`}`}
    </svg>
    <${Legend} lines=${lines} near=${near} x=${x} y=${y} />
    ${summary && html`<p class="small muted" id=${id}>${summary}</p>`}
    ${table && html`<${Table} label=${label} lines=${lines} x=${x} y=${y} xLabel=${xLabel} />`}
  </figure>`;
}

function XAxis({ scale, width, x, xTicks }) {
  const room = width - scale.left - PAD.right;
  const ticks = xTicks?.(scale.from, scale.to, Math.max(2, Math.floor(room / X_LABEL)));
  if (!ticks) {
    return html`<text x=${scale.left} y=${HEIGHT - 6}>${x(scale.from)}</text>
      <text x=${width - PAD.right} y=${HEIGHT - 6} text-anchor="end">${x(scale.to)}</text>`;
  }
  return ticks.map((at) => {
    const place = Math.min(Math.max(scale.x(at), scale.left + 18), width - PAD.right - 18);
    return html`<g key=${at}>
      <line class="grid" x1=${scale.x(at)} x2=${scale.x(at)} y1=${HEIGHT - PAD.bottom} y2=${HEIGHT - PAD.bottom + 5} />
      <text x=${place} y=${HEIGHT - 6} text-anchor="middle">${x(at)}</text>
    </g>`;
  });
}

/** The names of the lines; while the pointer is on the drawing, with the numbers there. */
function Legend({ lines, near, x, y }) {
  if (lines.length < 2 && near === null) return html`<figcaption aria-hidden="true">\u00a0</figcaption>`;
  const value = (line) => line.points.find(([at]) => at === near)?.[1];
  return html`<figcaption>
    ${lines.map((line, index) => html`<span key=${line.name} class=${`legend line-${index}`}>${line.name}${near !== null && value(line) !== undefined && value(line) !== null && html` <b>${y(value(line))}</b>`}</span>`)}
    ${near !== null && html`<span>${x(near)}</span>`}
  </figcaption>`;
}

function Table({ label, lines, x, y, xLabel }) {
  const [open, setOpen] = useState(false);
  const places = [...new Set(lines.flatMap((line) => line.points.map(([at]) => at)))].sort((a, b) => b - a);
  const cell = (line, at) => line.points.find((point) => point[0] === at)?.[1] ?? null;
  return html`<details onToggle=${(event) => setOpen(event.currentTarget.open)}>
    <summary>${t("app.as_table")}</summary>
    ${open && html`<div class="table-box" tabindex="0" role="region" aria-label=${label}><table>
      <caption class="unseen">${label}</caption>
      <thead><tr><th scope="col">${xLabel}</th>${lines.map((line) => html`<th scope="col" class="number" key=${line.name}>${line.name}</th>`)}</tr></thead>
      <tbody>${places.map((at) => html`<tr key=${at}><th scope="row">${x(at)}</th>
        ${lines.map((line) => html`<td class="number" key=${line.name}>${cell(line, at) === null ? "–" : y(cell(line, at))}</td>`)}
      </tr>`)}</tbody>
    </table></div>`}
  </details>`;
}

function useWidth(box) {
  const [width, setWidth] = useState(320);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.max(160, Math.floor(entry.contentRect.width))));
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  return width;
}

/** Return the place of a known number that is nearest to another place; null if there is none. Pure. */
export function nearest(lines, wanted) {
  let found = null;
  for (const { points } of lines) {
    for (const [at, value] of points) {
      if (value !== null && (found === null || Math.abs(at - wanted) < Math.abs(found - wanted))) found = at;
    }
  }
  return found;
}

/** Return how numbers become places; null without a point. Pure. */
export function scaleOf(lines, width, least = 0, { most: wanted = least, from: begin, to: end, y = String } = {}) {
  const points = lines.flatMap((line) => line.points).filter(([, value]) => value !== null);
  if (!points.length) return null;
  let [from, to, most] = [begin ?? Infinity, end ?? -Infinity, wanted];
  for (const [at, value] of points) {
    from = begin ?? Math.min(from, at);
    to = end ?? Math.max(to, at);
    most = Math.max(most, value);
  }
  const step = niceStep((most - least) / 3 || 1);
  const top = least + Math.max(1, Math.ceil((most - least) / step - 1e-9)) * step;
  const ticks = [];
  for (let value = least; value <= top + step / 2; value += step) ticks.push(value);
  const left = LABEL_GAP + CHARACTER * Math.max(...ticks.map((value) => y(value).length));
  const [room, tall] = [width - left - PAD.right, HEIGHT - PAD.top - PAD.bottom];
  return {
    from, to, ticks, left,
    x: (at) => left + ((at - from) / (to - from || 1)) * room,
    y: (value) => HEIGHT - PAD.bottom - ((value - least) / (top - least)) * tall,
    at: (place) => from + ((place - left) / room) * (to - from),
  };
}

/** Round up to 1, 2 or 5 times a power of ten. Pure. */
export function niceStep(size) {
  const power = 10 ** Math.floor(Math.log10(size));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= size * 0.999999);
}

const TIME_STEPS = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 14_400, 21_600, 43_200, 86_400];

/**
 * Return round times between two times in seconds since 1970, at most `count`. Pure.
 * @param {number} offset minutes by which local time is before UTC, as Date.getTimezoneOffset says
 */
export function timeTicks(from, to, count, offset = new Date(from * 1000).getTimezoneOffset()) {
  const step = TIME_STEPS.find((one) => (to - from) / one <= count) ?? Math.ceil((to - from) / count / 86_400) * 86_400;
  const shift = offset * 60;
  const ticks = [];
  for (let at = Math.ceil((from - shift) / step) * step + shift; at <= to; at += step) ticks.push(at);
  return ticks;
}

/** Return the drawing of a line: a point without neighbours is a dot. Pure. */
export function path(points, scale) {
  const isShown = (point) => point !== undefined && point[1] !== null && point[0] >= scale.from;
  return points.map((point, index) => {
    if (!isShown(point)) return "";
    const place = `${scale.x(point[0]).toFixed(1)} ${scale.y(point[1]).toFixed(1)}`;
    if (isShown(points[index - 1])) return `L${place}`;
    return isShown(points[index + 1]) ? `M${place}` : `M${place}h0`;
  }).join("");
}
