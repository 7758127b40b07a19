"""One log line for each request, and none that a client could use to fill the disk."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from offgrid.api.http.observe import endpoint_of, method_of
from offgrid.api.http.request_id import request_id
from offgrid.api.http.request_log import WINDOW, RequestLog
from offgrid.caller import Caller
from offgrid.record import Outcome, Record
from offgrid.terminal import JsonFormatter


def record(status: int = 200, code: str = "", **fields: object) -> Record:
    made = Record("req_1", "POST", "/v1/completions", status=status, code=code, began=100.0)
    for name, value in fields.items():
        setattr(made, name, value)
    made.seconds = 1.5
    return made


OUTCOME = Outcome("m", 31, 16, 21, 20, first_token=100.25, decode=0.5)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> RequestLog:
    caplog.set_level(logging.INFO)
    return RequestLog(Clock())


def test_the_line_of_an_answer(log: RequestLog, caplog: pytest.LogCaptureFixture) -> None:
    one = record(caller=Caller("k1", "ward 3", has_key=True))
    one.outcomes.append(OUTCOME)
    log.ended(one)
    assert caplog.messages == [
        'POST /v1/completions 200 1.500s model=m key="ward 3" in=31 cached=16 out=21 first=0.25s '
        "speed=40.0/s id=req_1"
    ]


def test_several_prompts_are_added_up(log: RequestLog, caplog: pytest.LogCaptureFixture) -> None:
    one = record()
    one.outcomes.extend([OUTCOME, OUTCOME])
    log.ended(one)
    assert "in=62 cached=32 out=42 first=0.25s speed=40.0/s" in caplog.messages[0]


@pytest.mark.parametrize(
    ("address", "part"),
    [("10.1.2.3", " from=10.1.2.3 "), ("127.0.0.1", ""), ("::1", ""), ("unix", ""), ("", "")],
)
def test_an_address_that_is_not_this_machine(
    log: RequestLog, caplog: pytest.LogCaptureFixture, address: str, part: str
) -> None:
    log.ended(record(caller=Caller(address, address=address)))
    assert part in caplog.messages[0]
    assert ("from=" in caplog.messages[0]) is bool(part)


@pytest.mark.parametrize(
    ("status", "level"),
    [(200, "INFO"), (400, "INFO"), (499, "INFO"), (500, "WARNING"), (503, "INFO")],
)
def test_the_level(
    log: RequestLog, caplog: pytest.LogCaptureFixture, status: int, level: str
) -> None:
    log.ended(record(status))
    assert [entry.levelname for entry in caplog.records] == [level]


@pytest.mark.parametrize(
    "endpoint",
    [
        "/health",
        "/ready",
        "/metrics",
        "/v1/stats",
        "/ui/{path}",
        "/favicon.ico",
        "/v1/history/{id}",
    ],
)
def test_monitors_and_files_of_the_page_fill_no_log(
    log: RequestLog, caplog: pytest.LogCaptureFixture, endpoint: str
) -> None:
    log.ended(record(endpoint=endpoint))
    assert caplog.messages == []
    caplog.set_level(logging.DEBUG)
    log.ended(record(endpoint=endpoint))
    assert len(caplog.messages) == 1


def test_e8_refusals_that_repeat_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """E8: ten thousand refusals make two lines."""
    caplog.set_level(logging.INFO)
    clock = Clock()
    log = RequestLog(clock)
    for _ in range(10_000):
        log.ended(record(400, "invalid_value"))
    log.ended(record(404, "model_not_found"))  # another kind
    assert len(caplog.messages) == 2
    log.tell_repeated()
    assert len(caplog.messages) == 2  # not yet
    clock.now = WINDOW
    log.tell_repeated()
    assert caplog.messages[2:] == [
        "POST /v1/completions 400 invalid_value: and 9999 more like it in 10 s"
    ]
    log.ended(record(400, "invalid_value"))
    assert caplog.messages[3].startswith("POST /v1/completions 400 1.500s code=invalid_value")


def test_a_refusal_after_the_window_tells_how_many_came(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    log = RequestLog(clock)
    for _ in range(3):
        log.ended(record(400, "invalid_value"))
    clock.now = WINDOW + 1
    log.ended(record(400, "invalid_value"))
    assert [": and 2 more" in message for message in caplog.messages] == [False, True, False]


def test_e8_refusals_from_many_addresses(caplog: pytest.LogCaptureFixture) -> None:
    """E8: neither the log nor the memory grows with the number of addresses."""
    caplog.set_level(logging.INFO)
    log = RequestLog(Clock())
    for number in range(10_000):
        log.ended(record(401, "invalid_api_key", caller=Caller(f"2001:db8:{number:x}::")))
    assert len(log._repeated) < 300
    assert len(caplog.messages) < 300


def test_answers_and_clients_that_left_are_never_left_out(
    log: RequestLog, caplog: pytest.LogCaptureFixture
) -> None:
    for status in (200, 499):
        for _ in range(50):
            log.ended(record(status, "client_gone" if status == 499 else ""))
    assert len(caplog.messages) == 100


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("offgrid.requests")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        one = record(
            endpoint="", path="/a\n\x1b[2J\u202e", caller=Caller("k", 'n"\n', has_key=True)
        )
        one.outcomes.append(OUTCOME)
        RequestLog().ended(one)
        try:
            raise ValueError("line\nline")
        except ValueError:
            logger.exception("failed")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.items() >= {
        "level": "info", "logger": "offgrid.requests", "status": 200, "in": 31, "out": 21,
        "key": 'n"\n', "first": 0.25, "speed": 40.0, "id": "req_1",
    }.items()  # fmt: skip
    assert "ValueError" in second["exception"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("abc-123", True), ("a" * 128, True), ("A.b_c:d/e+f=g@h", True), ("a" * 129, False),
        ("", False), (None, False), ("two words", False), ("a\nb", False), ("\xff", False),
        ("x\x1b[2J", False), ("a, b", False),
    ],
)  # fmt: skip
def test_which_ids_are_kept(given: str | None, kept: bool) -> None:
    made = request_id(given)
    assert (made == given) is kept
    assert made.isprintable()


def test_names_of_methods_and_endpoints() -> None:
    assert [method_of(m) for m in ("GET", "POST", "PRI", "X" * 99)] == [
        "GET", "POST", "OTHER", "OTHER"
    ]  # fmt: skip
    assert endpoint_of("/v1/models/{model:path}") == "/v1/models/{model}"
    assert endpoint_of(None) == ""
