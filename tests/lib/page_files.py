"""The files of the web page: where they are, and what they load."""

from __future__ import annotations

import posixpath
import re
from html.parser import HTMLParser
from pathlib import Path

import offgrid

WEB = Path(offgrid.__file__).parent / "web"
STATIC_IMPORT = re.compile(
    r"""(?:^|[;}\n]|\*/)\s*(?:import|export)\b(?:[\s\w$*,{}]*?\bfrom)?\s*["']([^"'\n]+)["']"""
)
DYNAMIC_IMPORT = re.compile(r"""\bimport\s*\(\s*["'`]([^"'`\n]+)["'`]""")
STYLE = re.compile(r"""["'`]((?:style|vendor)/[\w./-]+\.css)["'`]""")
"""A style sheet that a module loads, relative to the page."""
_PRELOADS = re.compile(r'(?: *<link rel="modulepreload" href="[^"]*">\n)*(?= *<script type="mod)')


def imports(script: str) -> list[str]:
    """Return what a module imports when it is loaded, in order."""
    return STATIC_IMPORT.findall(script)


def later_imports(script: str) -> list[str]:
    """Return the modules that a module loads when it first needs them, with `import("...")`."""
    return DYNAMIC_IMPORT.findall(script)


def text_of(name: str) -> str:
    """Return the text of a file of the page."""
    return (WEB / name).read_text(encoding="utf-8")


def resolved(importer: str, target: str) -> str:
    """Return the name of the file that a file of the page refers to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(importer), target))


def graph(start: str) -> list[str]:
    """Return a module and all modules that are loaded with it, in the order of their imports."""
    found: dict[str, None] = {}

    def visit(name: str) -> None:
        if name in found:
            return
        found[name] = None
        for target in imports(text_of(name)):
            visit(resolved(name, target))

    visit(start)
    return list(found)


def styles(modules: list[str]) -> set[str]:
    """Return the style sheets that modules load by themselves."""
    return {name for module in modules for name in STYLE.findall(text_of(module))}


class Html(HTMLParser):
    """What an HTML file contains: elements with their attributes, and scripts and styles in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style") and data.strip():
            self.inline.append(data)

    def links(self, rel: str) -> list[str]:
        """Return the targets of the links of one kind."""
        return [
            str(attrs.get("href"))
            for tag, attrs in self.elements
            if tag == "link" and attrs.get("rel") == rel
        ]


def with_preloads(page: str) -> str:
    """Return the page with a link for each module that main.js loads, so that a browser asks for
    all of them at once and not for each after it has read the one before."""
    lines = "".join(
        f'    <link rel="modulepreload" href="{name}">\n' for name in graph("main.js")[1:]
    )
    changed, count = _PRELOADS.subn(lines, page, count=1)
    assert count == 1, "the page has no <script type=module>"
    return changed
