"""Valid and invalid requests generated from the OpenAPI document.

No response is a 5xx or undocumented, and no invalid request is accepted.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import schemathesis
from documented import SSE, Documented
from hypothesis import HealthCheck, assume, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks
from support import STARTER, Response

from offgrid.api.fields.foreign import ONLY_IF_OFF
from offgrid.api.openapi.document import OPERATIONS, document

EXAMPLES = 40
MAX_TOKENS = 4
LIMITS = {
    "/v1/chat/completions": "max_tokens",
    "/v1/completions": "max_tokens",
    "/v1/responses": "max_output_tokens",
}
"""Names of the field that limits the length of an answer."""
NEEDS_MORE = {
    "/v1/models/{model}", "/v1/rerank", "/v1/responses/{id}", "/v1/responses/{id}/cancel",
    "/v1/responses/{id}/input_items", "/v1/responses/compact", "/v1/conversations/{id}",
    "/v1/conversations/{id}/items", "/v1/conversations/{id}/items/{item_id}",
    "/v1/import", "/v1/import/{id}", "/v1/import/{id}/cancel",
}  # fmt: skip
"""A valid request returns 200 only with an id, a model or a folder that this server does not have,
or it is always refused."""
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
    operation = SCHEMA[path][method]
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=EXAMPLES, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        if "model" in (case.query or ()):
            case.query["model"] = STARTER
        if "{model}/" in path:  # to load or unload it
            case.path_parameters["model"] = STARTER
        if mode is BAD and isinstance(case.body, dict):
            # Null counts as absent, also in fields that do not exist.
            present = {name: value for name, value in case.body.items() if value is not None}
            assume(not VALID.body(method, path).is_valid(present))
        if isinstance(case.body, dict):
            _to_the_point(case.body, LIMITS.get(path))
            if mode is GOOD:
                _agree(case.body)
        response = case.call_and_validate(base_url, checks=CHECKS)
        statuses[response.status_code] += 1
        # schemathesis does not check the events of a stream.
        headers = {name.lower(): values[0] for name, values in response.headers.items()}
        if headers.get("content-type", "").startswith(SSE):
            raw = Response(response.status_code, headers, response.content)
            Documented(SCHEMA.raw_schema).check(raw, method, path)

    check()
    if mode is GOOD and path not in NEEDS_MORE:
        # Otherwise the requests would have tested nothing.
        assert statuses[200] + statuses[202] >= statuses.total() / 4, statuses


def _to_the_point(body: dict[str, Any], limit: str | None) -> None:
    """Request a few tokens of an existing model."""
    if isinstance(body.get("model"), str):
        body["model"] = STARTER
    if limit is not None:
        value = body.get(limit)
        if value is None or (type(value) is int and MAX_TOKENS < value < 1 << 31):
            body[limit] = MAX_TOKENS


def _agree(body: dict[str, Any]) -> None:
    """Correct what the document cannot express: rules about other fields or the model."""
    for name in (
        "min_tokens", "logit_bias", "best_of", "echo", "dimensions", "repeat_penalty",
        "previous_response_id", "conversation", "tools", "tool_choice", "background",
        "min_length", "options", "grammar_type", *ONLY_IF_OFF,
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
    for name in ("prompt", "input", "tokens", "items"):
        if name in body:
            body[name] = _known(body[name])


def _known(prompt: Any) -> Any:
    """Replace any token ids by ids of the starter, and an invalid item by a valid one."""
    if isinstance(prompt, dict):
        return {"role": "user", "content": "Hello!"}
    if isinstance(prompt, list):
        return [_known(item) for item in prompt]
    return prompt % 1000 if isinstance(prompt, (int, float)) else prompt or "Hello!"
