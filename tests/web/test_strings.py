"""The words of the page: every language has all of them, and the page uses no others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import offgrid

WEB = Path(offgrid.__file__).parent / "web"
PLURALS = {
    "en": {"one", "other"},
    "de": {"one", "other"},
    "fr": {"one", "other"},
    "es": {"one", "other"},
    "pt": {"one", "other"},
    "ar": {"zero", "one", "two", "few", "many", "other"},
}
"""The plural categories of whole numbers below a million (Unicode CLDR). A text may add "many"."""
CATEGORIES = {"zero", "one", "two", "few", "many", "other"}
LITERAL = re.compile(r"""\bt\(\s*"([\w.-]+)\"""")
COMPOSED = re.compile(r"\bt\(\s*`([\w.-]*)\$\{")
CHOSEN = re.compile(r"""\bt\(\s*[\w.()!]+[^"`()]*\?\s*"([\w.-]+)"\s*:\s*"([\w.-]+)\"""")


def texts(language: str) -> dict[str, Any]:
    """Name -> text, or plural category -> text."""

    def walk(tree: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
        for key, value in tree.items():
            name = f"{path}{key}"
            if isinstance(value, dict) and not ("other" in value and value.keys() <= CATEGORIES):
                yield from walk(value, f"{name}.")
            else:
                yield name, value

    return dict(walk(json.loads((WEB / f"strings/{language}.json").read_text("utf-8")), ""))


def placeholders(text: Any) -> set[str]:
    """The names in braces, of all plural forms together."""
    forms = text.values() if isinstance(text, dict) else (text,)
    return {name for form in forms for name in re.findall(r"\{(\w+)\}", form)}


def modules() -> Iterator[str]:
    for path in sorted(WEB.rglob("*.js")):
        if "vendor" not in path.parts:
            yield path.read_text("utf-8")


ENGLISH = texts("en")


@pytest.mark.parametrize("language", [name for name in PLURALS if name != "en"])
def test_a_language_has_every_text(language: str) -> None:
    found = texts(language)
    assert found.keys() == ENGLISH.keys()
    for name, text in found.items():
        assert isinstance(text, dict) == isinstance(ENGLISH[name], dict), name
        # A form such as "one file" need not repeat its number.
        assert placeholders(text) - {"count"} == placeholders(ENGLISH[name]) - {"count"}, name
        assert all(map(str.strip, text.values() if isinstance(text, dict) else (text,))), name


@pytest.mark.parametrize("language", PLURALS)
def test_plural_forms_are_those_of_the_language(language: str) -> None:
    for name, text in texts(language).items():
        if isinstance(text, dict):
            assert text.keys() - {"many"} == PLURALS[language] - {"many"}, name
            assert "many" in text or "many" not in PLURALS[language], name


def test_the_page_uses_texts_that_exist() -> None:
    unknown = set()
    for module in modules():
        used = {
            *LITERAL.findall(module),
            *(name for both in CHOSEN.findall(module) for name in both),
        }
        unknown |= used - ENGLISH.keys()
        for prefix in COMPOSED.findall(module):
            assert any(name.startswith(prefix) for name in ENGLISH), prefix
    assert unknown == set()


def test_every_text_is_used() -> None:
    source = "\n".join(modules())
    prefixes = tuple(filter(None, COMPOSED.findall(source)))
    unused = [
        name for name in ENGLISH if f'"{name}"' not in source and not name.startswith(prefixes)
    ]
    assert unused == []


def test_the_languages_of_the_menu_are_those_with_texts() -> None:
    menu = re.findall(r'code: "(\w+)"', (WEB / "lib/i18n.js").read_text("utf-8"))
    assert sorted(menu) == sorted(PLURALS)
    assert sorted(path.stem for path in (WEB / "strings").iterdir()) == sorted(PLURALS)
