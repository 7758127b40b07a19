"""docs/API.md names every field, endpoint and error code of the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from offgrid import errors
from offgrid.api import embeddings, moderations, rerank
from offgrid.api.chat import request as chat
from offgrid.api.completions import request as completions
from offgrid.api.decisions import request as decisions
from offgrid.api.fields import foreign, notices, sampling, structured
from offgrid.api.fields.common import MAX_STOP_LENGTH, MAX_STOPS, GenerationFields
from offgrid.api.fields.inert import IGNORED
from offgrid.api.http import middleware
from offgrid.api.http.headers import protective_headers
from offgrid.api.responses import items as response_items
from offgrid.api.responses import request as responses
from offgrid.api.responses.hosted import HOSTED
from offgrid.engine.worker.embedder import MAX_INPUT_TOKENS
from offgrid.engine.worker.prompts import MAX_BRANCH_TOKENS
from offgrid.sampling.params import RANGES, Range

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "API.md").read_text(encoding="utf-8")
COMMON = "Common fields of chat and text completions"


def text_of(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def section(title: str) -> set[str]:
    return set(re.findall(r"`([a-z_0-9]+)`", text_of(title)))


def rows(title: str) -> set[str]:
    return set(re.findall(r"^\| `([a-z_0-9]+)` \|", text_of(title), re.MULTILINE))


def test_fields() -> None:
    common = set(GenerationFields.__struct_fields__)
    assert rows(COMMON) == (common | sampling.NAMES) - GenerationFields.PARSED - IGNORED
    for title, struct in (
        ("Chat only", chat.ChatRequest),
        ("Completions only", completions.CompletionRequest),
    ):
        assert rows(title) == set(struct.__struct_fields__) - common - struct.PARSED


def test_ranges_of_the_sampling_parameters() -> None:
    """The type and default in each row are those in ``offgrid/sampling/params.py``."""
    cells = {
        row[0].strip("`"): row[1:3]
        for row in (
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in text_of(COMMON).splitlines()
            if line.startswith("| `")
        )
    }
    assert {name: cells[name] for name in RANGES} == {
        name: [told(limits), default_told(limits)] for name, limits in RANGES.items()
    }


def told(limits: Range) -> str:
    if limits.kind is bool:
        return "boolean"
    if limits.api_most == 1 << 30:
        return f"{limits.api_least:g} and up"
    if limits.kind is int:
        return ", ".join(map(str, range(int(limits.api_least), int(limits.api_most) + 1)))
    return f"{limits.api_least:g} to {limits.api_most:g}"


def default_told(limits: Range) -> str:
    if limits.kind is bool:
        return str(limits.api_default).lower()
    return f"{limits.api_default:g}"


def test_fields_of_embeddings_and_rerank() -> None:
    assert rows("Embeddings") == set(embeddings.EmbeddingsRequest.__struct_fields__) - IGNORED
    assert rows("Rerank") == set(rerank.RerankRequest.__struct_fields__) - IGNORED
    assert f"{embeddings.MAX_INPUTS:,} inputs" in PAGE
    assert f"1 to {rerank.MAX_DOCUMENTS:,} strings" in PAGE
    assert PAGE.count(f"{MAX_INPUT_TOKENS:,} tokens in all") == 2


def test_fields_of_responses() -> None:
    ignored = responses.ONLY_SHOWN | responses.IGNORED
    own = (
        set(responses.ResponsesRequest.__struct_fields__)
        - ignored
        - responses.ResponsesRequest.PARSED
    )
    assert rows("Responses") == own
    assert section("Responses") >= ignored | responses.UNSUPPORTED.keys()
    assert f"up to {response_items.MAX_ITEMS:,} items" in PAGE
    # Results are described together with their calls.
    calls = {kind for kind in HOSTED if not kind.endswith("_output")}
    assert section("Responses") >= calls | response_items.TYPES.keys()
    # Fields shared with chat are described there.
    chat_too = {"chat_template_kwargs", "reasoning_budget_tokens"}
    shared = rows(COMMON) | chat_too | structured.NAMES
    assert responses.SAMPLING - {"repeat_penalty"} <= shared


def test_structured_output() -> None:
    assert section("Structured output") >= structured.FIELDS.keys() | {"grammar_type"}


def test_ignored_and_refused() -> None:
    assert rows("Without effect") == IGNORED
    assert section("Refused") >= chat.UNSUPPORTED.keys() | completions.UNSUPPORTED.keys()


def test_fields_of_other_servers() -> None:
    """Each table of the page is one of the code: names, targets, values and reasons."""
    used, idle, off = text_of("Fields of other servers").split("| Field |")[1:]
    told = [
        [re.findall(r"`([a-z_0-9.]+)`", cell) for cell in line.strip("|").split("|")]
        for line in used.splitlines()
        if line.startswith("| `")
    ]
    same = {name: means[0] for names, means in told for name in names if name in foreign.SAME}
    assert same == foreign.SAME
    assert {name for names, _ in told for name in names} == {*foreign.SAME, *foreign.SPECIAL}
    assert {
        reason.strip(): frozenset(re.findall(r"`([a-z_0-9.]+)`", names))
        for names, reason in re.findall(r"^\| (`.*) \| (.*) \|$", idle, re.MULTILINE)
    } == foreign.WITHOUT_EFFECT
    rules = (foreign.ONLY_IF_OFF | foreign.IF_UNKNOWN).items()
    assert re.findall(r"^\| `(.*)` \| (.*) \| (.*) \|$", off, re.MULTILINE) == sorted(
        (name, rule.values, rule.reason) for name, rule in rules
    )


def test_limits_of_stop_strings_and_of_the_header() -> None:
    row = next(line for line in text_of(COMMON).splitlines() if line.startswith("| `stop` |"))
    assert f"at most {MAX_STOPS}, each of 1 to {MAX_STOP_LENGTH:,} characters" in row
    told = " ".join(text_of("Unknown fields").split())
    assert f"cut to {notices.MAX_NAME} characters each, and at most {notices.MAX_NAMES}." in told


def test_error_codes() -> None:
    given = {
        cls.code
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, errors.RequestError) and cls.code
    }
    codes = set(get_args(errors.ErrorCode))
    assert section("Errors") >= codes >= given


def all_errors(cls: type[errors.RequestError]) -> Iterator[type[errors.RequestError]]:
    for child in cls.__subclasses__():
        yield child
        yield from all_errors(child)


def test_statuses_of_errors() -> None:
    """Each error of the package is in a row with its status."""
    found = {
        (status.strip(), code)
        for statuses, codes in re.findall(r"^\| ([\d, ]+) \| (.*?) \|", text_of("Errors"), re.M)
        for status in statuses.split(",")
        for code in re.findall(r"`(\w+)`", codes)
    }
    given = {
        (str(cls.status), cls.code)
        for cls in all_errors(errors.RequestError)
        if cls.code and cls.__module__.startswith("offgrid.")
    }
    assert len(given) > 20
    assert given <= found
    assert {code for _, code in found} >= set(get_args(errors.ErrorCode))


def test_headers_of_responses() -> None:
    """Those that a page may read, and those that limit what a browser does with a response."""
    limits = (ROOT / "docs" / "LIMITS.md").read_text(encoding="utf-8")
    told = {name.lower() for name in re.findall(r"`([\w-]+)(?:: [^`]*)?`", PAGE + limits)}
    protective = {name for name, _ in protective_headers((), secure=True)}
    assert told >= {name.lower() for name in {*middleware.EXPOSED, *protective}}


def test_fields_of_decisions_and_moderations() -> None:
    page = (ROOT / "docs" / "DECISIONS.md").read_text(encoding="utf-8")
    tables = re.split(r"^## ", page, flags=re.MULTILINE)
    for title, struct in (
        ("Request", decisions.DecisionsRequest),
        ("Moderations", moderations.ModerationsRequest),
    ):
        (text,) = (one for one in tables if one.startswith(title))
        table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
        assert table is not None
        found = set(re.findall(r"^\| `([a-z_]+)` \|", table[0], re.MULTILINE))
        assert found == set(struct.__struct_fields__) - IGNORED
    for number in (
        f"1 to {decisions.MAX_QUESTIONS} questions", f"2 to {decisions.MAX_CHOICES} objects",
        f"up to {moderations.MAX_INPUTS} texts", f"{MAX_BRANCH_TOKENS:,} tokens in total",
        f"at most {decisions.MAX_JSON_LEVELS} levels, {decisions.MAX_JSON_VALUES:,} values and "
        f"{decisions.MAX_JSON_BYTES >> 10} KiB",
    ):  # fmt: skip
        assert number in " ".join(page.split())
