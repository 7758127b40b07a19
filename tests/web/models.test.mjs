// The page of models, as far as it needs no browser.

import assert from "node:assert/strict";
import { test } from "node:test";

import { grouped, merged, pathOf, shareOf } from "../../offgrid/web/pages/models/places.js";

const medium = (path) => ({ path, name: path, size: 10, free: 5, writable: true });
const model = (path) => ({ id: path, path, size: 1, parts: 1, present: false });

test("an id keeps its slashes in a path, and nothing else of it is read as one", () => {
  assert.equal(pathOf("sub/a b"), "v1/models/sub/a%20b");
  assert.equal(pathOf("a?x=1#y"), "v1/models/a%3Fx%3D1%23y");
  assert.equal(pathOf("ä%2F"), "v1/models/%C3%A4%252F");
});

test("models are shown with the stick that they are on", () => {
  const places = grouped({
    media: [medium("/media"), medium("/media/me/USB"), medium("/media/me/USB 2")],
    found: [model("/media/me/USB/a.gguf"), model("/media/me/USB 2/b.gguf"), model("/media/c.gguf"),
      model("/media/me/USB/w.whl:w/d.gguf")],
    skipped: [{ path: "/media/me/USB", reason: "damaged" }],
    roots: ["/media", "/mnt"],
  });
  const ids = new Map(places.map((place) => [place.medium.path, place.found.map(({ id }) => id)]));
  assert.deepEqual([...ids], [
    ["/media", ["/media/c.gguf"]],
    ["/media/me/USB", ["/media/me/USB/a.gguf", "/media/me/USB/w.whl:w/d.gguf"]],
    ["/media/me/USB 2", ["/media/me/USB 2/b.gguf"]],
  ]);
  assert.equal(places[1].skipped.length, 1);
});

test("what is on no stick is shown with its import root, to which nothing is exported", () => {
  const [place, ...others] = grouped({
    media: [], found: [model("/mnt/a.gguf"), model("/mnt/sub/b.gguf")], skipped: [], roots: ["/mnt"],
  });
  assert.equal(others.length, 0);
  assert.deepEqual([place.medium.path, place.medium.writable, place.found.length], ["/mnt", false, 2]);
});

test("Windows' paths and the root of the file system are places too", () => {
  const [stick] = grouped({ media: [medium("E:\\")], found: [model("E:\\m\\a.gguf")], skipped: [], roots: ["E:\\"] });
  assert.equal(stick.found.length, 1);
  const [root] = grouped({ media: [medium("/")], found: [model("/a.gguf")], skipped: [], roots: ["/"] });
  assert.equal(root.found.length, 1);
});

test("details are kept while no model comes, goes or changes its status", () => {
  const before = [{ id: "a", status: "loading", progress: 0.1, memory: 5 }, { id: "b", status: "unloaded", memory: 6 }];
  const list = [{ id: "a", status: "loading", progress: 0.5 }, { id: "b", status: "unloaded", default: true }];
  assert.deepEqual(merged(before, list), [
    { id: "a", status: "loading", progress: 0.5, memory: 5 },
    { id: "b", status: "unloaded", default: true, memory: 6 },
  ]);
  assert.equal(merged(before, [{ ...list[0], status: "loaded" }, list[1]]), null);
  assert.equal(merged(before, [list[0]]), null);
  assert.equal(merged(before, [list[0], { ...list[1], id: "c" }]), null);
});

test("before the first answer there is no place", () => {
  assert.deepEqual(grouped({ media: null, found: [], skipped: [], roots: [] }), []);
});

test("a transfer that has nothing to copy yet has no share", () => {
  assert.equal(shareOf(null), null);
  assert.equal(shareOf({ all_done: 0, all_total: 0 }), null);
  assert.equal(shareOf({ all_done: 1, all_total: 4 }), 0.25);
});
