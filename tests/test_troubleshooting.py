"""The page of error messages quotes messages that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import offgrid

PACKAGE = Path(offgrid.__file__).parent
PAGE = Path(__file__).parent.parent / "docs" / "TROUBLESHOOTING.md"


def literal(node: ast.AST) -> str | None:
    """A text of the code; a place for a value becomes a line break."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "\n" for part in node.values
        )
    return None


def texts() -> list[str]:
    """All texts of the package, and the scripts of a stick."""
    found = [
        path.read_text(encoding="utf-8").replace("\\\n", "")
        for path in (PACKAGE / "store/stick").iterdir()
    ]
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        nodes = [node for node in ast.walk(tree) if id(node) not in documentation]
        found += [text for text in map(literal, nodes) if text is not None]
    return found


def quoted() -> list[str]:
    """The messages of the page: the code in the first cells of its tables."""
    page = PAGE.read_text(encoding="utf-8")
    messages = []
    for section in page.split("\n## ")[1:]:
        rows = re.findall(r"^\| (.*?) \| ", section, re.MULTILINE)
        if "not from OffGrid" not in section:
            messages += [code for row in rows for code in re.findall(r"`([^`]+)`", row)]
    return messages


def exists(message: str, texts: list[str]) -> bool:
    """Whether a text contains the parts of a message, which ``...`` divides, in order."""
    parts = [part.strip() for part in message.split("...")]
    pattern = ".*".join(re.escape(part) for part in parts)
    return any(re.search(pattern, text, re.DOTALL) for text in texts)


def test_every_quoted_message_is_in_the_code() -> None:
    found = texts()
    messages = quoted()
    assert len(messages) > 60
    assert [message for message in messages if not exists(message, found)] == []


def test_a_message_that_does_not_exist_is_found() -> None:
    found = texts()
    assert not exists("The disk is on fire", found)
    assert not exists("slots of ... tokens need about ... teabags", found)
