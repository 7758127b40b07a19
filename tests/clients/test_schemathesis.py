"""Valid and invalid requests generated from the OpenAPI document.

No response is a 5xx or undocumented, and no invalid request is accepted.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from documented import SSE, Documented
from hypothesis import HealthCheck, assume, given, settings
from keyed import bearer, new_key
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks
from support import STARTER, Response, eventually, request

from offgrid.api.engines import WAIT
from offgrid.api.fields.foreign import ONLY_IF_OFF
from offgrid.api.http.access import Failures
from offgrid.api.openapi.document import OPERATIONS, document
from offgrid.config import load_settings
from offgrid.server import Server

EXAMPLES = 40
MAX_TOKENS = 4
LIMITS = {
    "/v1/chat/completions": "max_tokens",
    "/v1/completions": "max_tokens",
    "/v1/messages": "max_tokens",
    "/completion": "max_tokens",
    "/completions": "max_tokens",
    "/infill": "max_tokens",
    "/v1/responses": "max_output_tokens",
}
"""Names of the field that limits the length of an answer."""
NEEDS_MORE = {
    "/v1/models/{model}", "/v1/rerank", "/v1/responses/{id}", "/v1/responses/{id}/cancel",
    "/v1/responses/{id}/input_items", "/v1/responses/compact", "/v1/conversations/{id}",
    "/v1/conversations/{id}/items", "/v1/conversations/{id}/items/{item_id}",
    "/v1/import", "/v1/import/{id}", "/v1/import/{id}/cancel", "/infill", "/slots/{id}",
    "/v1/export", "/v1/export/{id}", "/v1/export/{id}/cancel",
    *(f"/v1/models/{{model}}/{action}" for action in ("pin", "unpin", "default", "remove")),
    "/v1/history/{id}", "/v1/history/{id}/messages", "/v1/history/{id}/export",
    "/v1/score", "/score", "/ui/{path}", "/v1/keys/{id}", "/v1/keys/{id}/rotate",
    "/v1/peers", "/v1/peers/{id}", "/v1/peers/pair",
}  # fmt: skip
"""A valid request returns 200 only with an id, a model, a file or a folder that this server does
not have, or it is always refused: peers are off here, since requests would look for machines at
random addresses."""
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
    checks.allow_header_conformance,
]


NOT_OFFERED = {(one.method, one.path) for one in OPERATIONS if 501 in one.errors}
"""They are always refused with a status that counts as an error of the server."""


def _checks(method: str, path: str) -> list[Any]:
    refused = (method, path) in NOT_OFFERED
    return [check for check in CHECKS if not (refused and check is not_a_server_error)]


SCHEMA = schemathesis.openapi.from_dict(document())
VALID = Documented(document())


GOOD, BAD = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
CASES = [
    *[(operation.method, operation.path, GOOD) for operation in OPERATIONS],
    # Path parameters cannot be invalid.
    *[(operation.method, operation.path, BAD) for operation in OPERATIONS if operation.body],
]


@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_generated_requests(
    base_url: str, method: str, path: str, mode: schemathesis.GenerationMode
) -> None:
    _check_generated(base_url, method, path, mode, EXAMPLES, {})


def _check_generated(
    base_url: str,
    method: str,
    path: str,
    mode: schemathesis.GenerationMode,
    examples: int,
    headers: dict[str, str],
) -> None:
    operation = SCHEMA[path][method]
    statuses: Counter[int] = Counter()
    if path == "/ready":
        eventually(lambda: request(base_url, "GET", path).status == 200, "the server is ready")

    @settings(
        max_examples=examples, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        if "model" in (case.query or ()):
            case.query["model"] = STARTER
        if path in ("/v1/keys", "/v1/stats/series"):  # the document does not list their values
            case.query = {}
        if path == "/v1/history" and case.query:  # a page of a list that has others
            case.query = {name: value for name, value in case.query.items() if name == "query"}
        # A model that an earlier request has unloaded is loaded again.
        if mode is GOOD and WAIT in (case.headers or ()):
            case.headers[WAIT] = "60"
        if "{model}/" in path:  # to load or unload it
            case.path_parameters["model"] = STARTER
        if mode is BAD and isinstance(case.body, dict):
            # Null counts as absent, also in fields that do not exist and in lists.
            assume(not VALID.body(method, path).is_valid(_without_nulls(case.body)))
        if isinstance(case.body, dict):
            _to_the_point(case.body, LIMITS.get(path))
            if mode is GOOD and path.startswith("/v1/history"):
                _agree_with_history(case.body)
            elif mode is GOOD:
                _agree(case.body)
            if mode is GOOD and path in ("/api/show", "/api/pull"):
                case.body.pop("name", None)  # an older name, which may differ
                case.body["model"] = STARTER
            if mode is GOOD and path == "/v1/lab/distribution":
                _agree_with_lab(case.body)
            if mode is GOOD and path == "/v1/keys":
                case.body |= {"name": f"k{secrets.token_hex(8)}", "expires": None, "models": None}
                if not headers:  # the first key must have admin, and would close the server
                    case.body["scopes"] = ["inference"]
            if mode is GOOD and path == "/v1/decisions":
                _agree_with_questions(case.body["questions"])
            if mode is GOOD and path.startswith("/v1/messages"):
                _agree_with_blocks(case.body)
        response = case.call_and_validate(base_url, checks=_checks(method, path), headers=headers)
        statuses[response.status_code] += 1
        # schemathesis does not check the events of a stream.
        sent = {name.lower(): values[0] for name, values in response.headers.items()}
        if sent.get("content-type", "").startswith(SSE):
            raw = Response(response.status_code, sent, response.content)
            Documented(SCHEMA.raw_schema).check(raw, method, path)

    check()
    if mode is GOOD and path not in NEEDS_MORE and (method, path) not in NOT_OFFERED:
        # Otherwise the requests would have tested nothing.
        # A key is created (201), or refused: without keys, the first one needs the scope admin.
        created = statuses[201] + (statuses[400] if path == "/v1/keys" else 0)
        done = statuses[200] + statuses[202] + statuses[302] + created  # "/ui" leads to "/ui/"
        assert done >= statuses.total() / 4, statuses


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A server with keys, and one of them that may do everything."""
    folder = tmp_path_factory.mktemp("keyed")
    _, secret = new_key(folder / "keys.sqlite3", "all", "admin")
    flags = {
        "port": 0, "models_dir": folder, "default_model": STARTER, "threads": 1,
        "import_roots": str(folder), "responses_file": folder / "responses.sqlite3",
        "keys_file": folder / "keys.sqlite3", "drain_timeout": 5,
    }  # fmt: skip
    server = Server(load_settings(flags, environ={}))
    server.access.failures = Failures(most=1_000_000)
    server.start()
    yield server.url, secret
    server.stop()


@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_generated_requests_with_a_key(
    keyed: tuple[str, str], method: str, path: str, mode: schemathesis.GenerationMode
) -> None:
    """With a key that may do everything, the answers are as without keys."""
    url, secret = keyed
    _check_generated(url, method, path, mode, EXAMPLES // 4, bearer(secret))


@pytest.mark.parametrize("wrong", [{}, {"Authorization": "Bearer wrong"}, {"X-Api-Key": "wrong"}])
@pytest.mark.parametrize(
    ("method", "path"), [(each.method, each.path) for each in OPERATIONS if not each.public]
)
def test_generated_requests_without_a_key_are_all_refused(
    keyed: tuple[str, str], method: str, path: str, wrong: dict[str, str]
) -> None:
    operation = SCHEMA[path][method]

    @settings(
        max_examples=EXAMPLES // 4, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(operation.as_strategy(generation_mode=GOOD))
    def check(case: schemathesis.Case) -> None:
        # It would send other keys.
        names = ("authorization", "x-api-key", "api-key")
        case.headers = {k: v for k, v in (case.headers or {}).items() if k.lower() not in names}
        response = case.call_and_validate(keyed[0], checks=CHECKS, headers=wrong)
        assert response.status_code == 401

    check()


def _to_the_point(body: dict[str, Any], limit: str | None) -> None:
    """Request a few tokens of an existing model."""
    if isinstance(body.get("model"), str):
        body["model"] = STARTER
    if limit is not None:
        value = body.get(limit)
        if value is None or (type(value) is int and MAX_TOKENS < value < 1 << 31):
            body[limit] = MAX_TOKENS


def _agree_with_history(body: dict[str, Any]) -> None:
    """Let no message refer to others, and no id be one that an earlier request has used."""
    for conversation in (body, *(body.get("conversations") or ())):
        if not isinstance(conversation, dict):
            continue
        conversation.pop("head", None)
        if conversation is not body or "id" in body:
            conversation["id"] = f"chat_{secrets.token_hex(8)}"
        for number, message in enumerate(conversation.get("messages") or ()):
            if isinstance(message, dict):
                message |= {"id": f"m{number}", "parent": None}
    if "version" in body:
        body["version"] = 1


def _agree(body: dict[str, Any]) -> None:
    """Correct what the document cannot express: rules about other fields or the model."""
    for name in (
        "min_tokens", "logit_bias", "best_of", "echo", "dimensions", "repeat_penalty",
        "previous_response_id", "conversation", "tools", "tool_choice", "background",
        "min_length", "options", "grammar_type", "samplers", *ONLY_IF_OFF,
    ):  # fmt: skip
        body.pop(name, None)
    if not body.get("stream"):
        body.pop("stream_options", None)
    if "top_logprobs" in body and "input" in body:
        body["include"] = ["message.output_text.logprobs"]
    elif "top_logprobs" in body:
        body["logprobs"] = True
    if "messages" in body:
        # A null counts as absent in lists too.
        given = [message for message in body["messages"] if message is not None]
        body["messages"] = given or [{"role": "user", "content": "Hello!"}]
    for message in body.get("messages", ()):
        if isinstance(message, dict):
            message["content"] = message.get("content") or "Hello!"
    if isinstance(body.get("prompt"), dict):
        body["prompt"] = "Hello!"
    for name in ("prompt", "input", "tokens", "items"):
        if name in body:
            body[name] = _known(body[name])


def _agree_with_blocks(body: dict[str, Any]) -> None:
    """Correct what the document cannot express about Anthropic's API: where blocks may be, what an
    image is, and which fields are the same."""
    for name in ("output_format", "stop", "stop_sequence", "stopping_strings"):
        body.pop(name, None)
    for message in body["messages"]:
        if isinstance(message["content"], list):
            blocks = [block for block in message["content"] if isinstance(block, dict)]
            kept = [block for block in blocks if block["type"] == "text"]
            message["content"] = kept or "Hello!"
    body["messages"].append({"role": "user", "content": "Hello!"})


def _agree_with_lab(body: dict[str, Any]) -> None:
    """Let a request have one prompt, and an answer of known tokens."""
    prompts = [name for name in ("prompt", "messages", "tokens") if body.get(name)]
    for name in prompts[1:]:
        del body[name]
    if not prompts:
        body["prompt"] = "Hello!"
    body["continuation"] = [5, 6]


def _without_nulls(value: Any) -> Any:
    """Return a value without the nulls in it."""
    if isinstance(value, dict):
        return {name: _without_nulls(one) for name, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_nulls(one) for one in value if one is not None]
    return value


def _agree_with_questions(questions: list[Any]) -> None:
    """Correct what the document cannot express about questions: instructions have text, and no
    choice occurs twice."""
    for question in filter(None, questions):
        parts = question["instructions"]
        if isinstance(parts, list):
            parts[:] = [part for part in parts if part and part["type"] != "input_image"]
            parts.append({"type": "input_text", "text": "Is it so?"})
        elif not parts.strip():
            question["instructions"] = "Is it so?"
        for name, value in (("choices", "value"), ("levels", "label")):
            for number, choice in enumerate(filter(None, question.get(name) or ())):
                choice[value] = f"{number} {choice[value]}"


def _known(prompt: Any) -> Any:
    """Replace any token ids by ids of the starter, and an invalid item by a valid one."""
    if isinstance(prompt, dict):
        return {"role": "user", "content": "Hello!"}
    if isinstance(prompt, list):
        return [_known(item) for item in prompt if item is not None]
    return prompt % 1000 if isinstance(prompt, (int, float)) else prompt or "Hello!"
