// What can be computed without the browser: paths, places and shares.

/** The path of a model in the API. An id may have slashes, which stay. */
export function pathOf(id) {
  return `v1/models/${id.split("/").map(encodeURIComponent).join("/")}`;
}

/**
 * Return models with their earlier details and what is new in the list; null if a model has come,
 * gone or changed its status, so that its details may be others.
 */
export function merged(before, list) {
  const old = new Map(before.map((model) => [model.id, model]));
  const same = list.length === old.size && list.every(({ id, status }) => old.get(id)?.status === status);
  return same ? list.map((model) => ({ ...old.get(model.id), ...model })) : null;
}

/** How far a transfer is, 0 to 1; null if nothing has to be copied yet. */
export function shareOf(progress) {
  return progress && progress.all_total > 0 ? progress.all_done / progress.all_total : null;
}

/**
 * Return the media with what was found on each, in the order of the media.
 * What is on none of them, such as a folder at a place for sticks, is under its root.
 */
export function grouped({ media, found, skipped, roots }) {
  const places = new Map((media ?? []).map((medium) => [medium.path, { medium, found: [], skipped: [] }]));
  const put = (name, one) => {
    const path = placeOf(one.path, [...places.keys()]) ?? placeOf(one.path, roots) ?? one.path;
    if (!places.has(path)) places.set(path, { medium: { path, name: path, size: null, free: null, writable: false }, found: [], skipped: [] });
    places.get(path)[name].push(one);
  };
  found.forEach((one) => put("found", one));
  skipped.forEach((one) => put("skipped", one));
  return [...places.values()];
}

/** Return the deepest of some folders that contains a path. */
function placeOf(path, places) {
  return places.filter((place) => isIn(path, place)).sort((a, b) => b.length - a.length)[0];
}

function isIn(path, place) {
  const folder = place.replace(/[\\/]$/, ""); // "/" and "E:\\" end with a separator already
  return path === place || path.startsWith(`${folder}/`) || path.startsWith(`${folder}\\`);
}
