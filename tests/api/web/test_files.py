"""Files of a page: their names, their versions, and how they change."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import pytest
from support import together

from offgrid.api.web import files
from offgrid.api.web.files import PageFiles

TEXT = "body {color: red}\n" * 40


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small page."""
    folder = tmp_path / "web"
    (folder / "style").mkdir(parents=True)
    (folder / "index.html").write_text("<p>Hello</p>")
    (folder / "style" / "base.css").write_text(TEXT)
    (folder / "notes.py").write_text("secret")
    (folder / ".env").write_text("secret")
    (tmp_path / "outside.css").write_text("secret")
    return folder


def test_only_files_of_known_types_below_the_folder(root: Path) -> None:
    page = PageFiles(root)
    assert page.names == {"index.html", "style/base.css"}
    for name in (
        "", ".", "/", "..", "style", "style/", "notes.py", ".env", "../outside.css",
        "style/../index.html", "./index.html", "/index.html", "INDEX.HTML", "index.html\0.css",
        "style\\base.css", str(root / "index.html"), "index.html/", "style//base.css",
    ):  # fmt: skip
        assert page.get(name) is None, name


def test_versions(root: Path) -> None:
    file = PageFiles(root).get("style/base.css")
    assert file is not None
    assert file.media_type == "text/css; charset=utf-8"
    assert file.plain.data == TEXT.encode()
    assert file.plain.etag == hashlib.sha256(TEXT.encode()).hexdigest()
    assert file.zipped is not None
    assert gzip.decompress(file.zipped.data) == TEXT.encode()
    assert len(file.zipped.data) < len(TEXT)
    assert file.zipped.etag != file.plain.etag
    # The same bytes on each server, whenever it was started.
    assert file.zipped == PageFiles(root).get("style/base.css").zipped  # type: ignore[union-attr]


def test_what_gzip_does_not_make_smaller_stays_as_it_is(root: Path) -> None:
    (root / "font.woff2").write_bytes(bytes(1000))
    page = PageFiles(root)
    for name in ("index.html", "font.woff2"):
        file = page.get(name)
        assert file is not None
        assert file.zipped is None


def test_a_file_is_read_once_until_it_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    original = files.read
    monkeypatch.setattr(files, "read", lambda path: read.append(path) or original(path))
    page, path = PageFiles(root), root / "index.html"
    answers = together([lambda: page.get("index.html")] * 8)
    assert len(read) == 1
    assert len({id(answer) for answer in answers}) == 1
    path.write_text("<p>Hello!</p>")
    changed = page.get("index.html")
    assert changed is not None
    assert changed.plain.data == b"<p>Hello!</p>"
    # The same size, but a later time.
    path.write_text("<p>Hallo!</p>")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    again = page.get("index.html")
    assert again is not None
    assert again.plain.data == b"<p>Hallo!</p>"
    assert len(read) == 3
    path.unlink()
    assert page.get("index.html") is None


def test_without_a_folder_there_are_no_files(tmp_path: Path) -> None:
    assert PageFiles(tmp_path / "none").get("index.html") is None
