"""What a browser loads: the files exist, none is of another host, and the first load is small."""

from __future__ import annotations

import fnmatch
import gzip
import json
import re

import pytest
from page_files import WEB, Html, graph, imports, later_imports, resolved, styles, text_of
from page_files import with_preloads as preloaded

from offgrid.api.web.files import MEDIA_TYPES

MOST = 300_000
"""Compressed bytes of the first load."""
FIRST = "pages/chat/index.js"
"""The page that is shown first."""
NAMES = sorted(path.relative_to(WEB).as_posix() for path in WEB.rglob("*") if path.is_file())
OWN = [name for name in NAMES if not name.startswith("vendor/")]
SCRIPTS = [name for name in OWN if name.endswith(".js")]
PAGES = [name for name in NAMES if name.endswith(".html")]
NAMESPACES = {"www.w3.org"}
"""Hosts in names of XML namespaces, which nothing asks."""
THIS_MACHINE = {"localhost", "127.0.0.1"}
URL = re.compile(r"""url\(\s*(?:(["'])(.*?)\1|([^"'\s)]+))\s*\)""")


def zipped(names: set[str]) -> dict[str, int]:
    """Return the compressed size of each file."""
    return {name: len(gzip.compress((WEB / name).read_bytes())) for name in names}


def first_load() -> set[str]:
    """Return the files of a first visit, in the language with the longest words."""
    page = Html(text_of("index.html"))
    scripts = {str(attrs["src"]) for tag, attrs in page.elements if attrs.get("src")}
    modules = [*graph("main.js"), *graph(FIRST)]
    words = zipped({name for name in OWN if name.startswith("strings/")})
    longest = max(words, key=lambda name: words[name])
    return {
        "index.html", "strings/en.json", longest, *scripts, *modules, *page.links("stylesheet"),
        *page.links("icon"), *styles(modules),
    }  # fmt: skip


def test_the_first_load_is_small() -> None:
    sizes = zipped(first_load())
    assert sum(sizes.values()) <= MOST, sorted(sizes.items(), key=lambda item: -item[1])
    assert {"main.js", "early.js", "vendor/preact.js", "style/base.css"} <= sizes.keys()


def test_all_modules_of_the_first_load_are_asked_for_at_once() -> None:
    page = text_of("index.html")
    assert preloaded(page) == page, "imports have changed: run .ci/preload"
    assert sorted(Html(page).links("modulepreload")) == sorted(set(graph("main.js")) - {"main.js"})


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_module_imports_exists(name: str) -> None:
    script = text_of(name)
    for target in imports(script) + later_imports(script):
        assert target.startswith(("./", "../")), f"a browser cannot find {target!r}"
        # A name that is composed, such as `languages/${name}.js`, stands for all that fit.
        pattern = resolved(name, re.sub(r"\$\{\w+\}", "*", target))
        assert fnmatch.filter(NAMES, pattern), target
    assert styles([name]) <= set(NAMES)


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_loads_exists(name: str) -> None:
    for tag, attrs in Html(text_of(name)).elements:
        target = attrs.get("src") or (attrs.get("href") if tag == "link" else None)
        if target is not None:
            assert resolved(name, target) in NAMES, target


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_script_or_style_of_its_own(name: str) -> None:
    """The Content-Security-Policy would stop them."""
    page = Html(text_of(name))
    assert page.inline == []
    for tag, attrs in page.elements:
        assert tag not in ("base", "style")
        assert not [attr for attr in attrs if attr == "style" or attr.startswith("on")], tag


@pytest.mark.parametrize("name", [n for n in OWN if n.endswith((".html", ".svg", ".js"))])
def test_markup_in_a_file_has_no_style_or_handler(name: str) -> None:
    """Also in templates, where only style=${object} is allowed."""
    text = text_of(name)
    if not name.endswith(".svg"):
        assert not re.search(r"""\sstyle=["']""", text)
    assert not re.search(r"""<[a-z][^>]*\son[a-z]+=["']""", text)
    assert "javascript:" not in text.lower().replace('"javascript:"', "")


def without_comments(name: str, text: str) -> str:
    """Return a file without what no browser acts upon."""
    if name.endswith((".js", ".css")):
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    if name.endswith(".js"):
        text = re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)
    return text


@pytest.mark.parametrize("name", [n for n in OWN if not n.endswith((".ico", ".png", ".woff2"))])
def test_no_file_refers_to_another_host(name: str) -> None:
    text = without_comments(name, text_of(name))
    hosts = set(re.findall(r"""\b(?:https?|wss?|ftp)://([\w.-]+)""", text))
    assert hosts <= NAMESPACES | THIS_MACHINE
    assert not re.search(r"""["'`(=]\s*//[\w-]+\.[\w.-]+""", text)


def test_style_sheets_load_only_files_of_the_page() -> None:
    for name in (n for n in NAMES if n.endswith(".css")):
        text = without_comments(name, text_of(name))
        assert "@import" not in text
        for found in URL.finditer(text):
            target = found[2] or found[3]
            assert target.startswith("data:") or resolved(name, target) in NAMES, target


def test_each_file_can_be_served() -> None:
    assert {"." + name.rpartition(".")[2] for name in NAMES} <= MEDIA_TYPES.keys()


def test_json_files_are_valid() -> None:
    for name in (n for n in NAMES if n.endswith(".json")):
        json.loads(text_of(name))


def test_what_finds_imports_and_inline_code() -> None:
    """The checks above find nothing in a good page; here they find something."""
    script = """
    import {a,
      b as c} from './x.js'; import "../y.js"; export * from "./z.js"
    // import "./no.js"
    const from = "./no.js"; load(() => import("./later.js"));
    """
    assert imports(script) == ["./x.js", "../y.js", "./z.js"]
    assert later_imports(script) == ["./later.js"]
    assert imports('import{options as n}from"preact";var t') == ["preact"]
    page = Html('<p onclick="x()" style="a">b</p><script>c</script><script src="d"></script>')
    assert page.inline == ["c"]
    assert page.elements[0] == ("p", {"onclick": "x()", "style": "a"})
    assert without_comments("a.js", "x // y\n  // https://a.example\n/* z */") == "x // y\n\n"
