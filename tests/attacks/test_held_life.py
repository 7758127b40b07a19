"""The end of a server at any moment, and the files and processes that it leaves.

``tests/test_server.py`` covers more ends: SIGTERM while the model loads, SIGKILL while an answer is
computed. ``tests/cli/test_serve_refusals.py`` covers a second server on the same port.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lasting
import pytest
from lasting import write_lasting
from processes import Child, all_gone
from support import STARTER, request

pytestmark = pytest.mark.usefixtures("access")
Serve = Callable[..., Child]

RESPONSES = "/v1/responses"
QUICK = ("--threads", "1")
"""One thread: threads of llama.cpp wait for each other, and other tests run too."""


@pytest.mark.slow
def test_a_server_that_is_killed_while_it_loads_leaves_no_worker(serve: Serve) -> None:
    child = serve()
    assert child.url
    worker = child.worker()
    child.process.kill()
    all_gone([worker])
    assert child.wait() == -signal.SIGKILL


def keep(url: str, text: str, **fields: Any) -> str:
    """Create a stored response; return its id."""
    body = {"model": STARTER, "input": text, "max_output_tokens": 2, **fields}
    response = request(url, "POST", RESPONSES, body)
    assert response.status == 200
    assert response.json["store"] is True
    return str(response.json["id"])


@pytest.mark.slow
def test_acknowledged_responses_survive_a_kill(serve: Serve) -> None:
    """Each response is in the file before the client receives it."""
    child = serve(*QUICK)
    url = child.wait_ready()
    ids = [keep(url, "Once")]
    for _ in range(4):
        ids.append(keep(url, "and then", previous_response_id=ids[-1]))
    child.process.kill()
    child.wait()
    url = serve(*QUICK).wait_ready()
    for id in ids:
        assert request(url, "GET", f"{RESPONSES}/{id}").json["id"] == id
    keep(url, "goes on", previous_response_id=ids[-1])


@pytest.mark.slow
def test_a_background_response_of_a_killed_server_has_failed(serve: Serve, models: Path) -> None:
    write_lasting(models)
    child = serve(*QUICK, *lasting.FLAGS)
    url = child.wait_ready()
    body = {"model": "lasting", "input": "Once", "background": True, "ignore_eos": True}
    id = request(url, "POST", RESPONSES, body).json["id"]
    child.process.kill()
    child.wait()
    url = serve(*QUICK).wait_ready()
    response = request(url, "GET", f"{RESPONSES}/{id}").json
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert request(url, "POST", f"{RESPONSES}/{id}/cancel").json == response


@pytest.mark.slow
def test_a_responses_file_of_garbage_is_set_aside(serve: Serve, tmp_path: Path) -> None:
    """The file is garbage at the start, and again while it is used.

    The default run covers damaged files without a server, in ``tests/store/test_responses.py``.
    """
    path = tmp_path / "responses.sqlite3"
    garbage = b"SQLite format 3\0" + b"\xa5" * 8000
    path.write_bytes(garbage)
    child = serve(*QUICK)
    url = child.wait_ready()
    id = keep(url, "Once")
    assert request(url, "GET", f"{RESPONSES}/{id}").status == 200
    assert path.with_name("responses.sqlite3.damaged").read_bytes() == garbage
    child.err.find("is damaged .*: set aside")

    path.write_bytes(b"\xa5" * 20_000)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    # Stored responses are lost with the file, which this server may still have open.
    assert request(url, "GET", f"{RESPONSES}/{id}").status in (200, 404, 500, 503)
    child.process.kill()
    child.wait()
    url = serve(*QUICK).wait_ready()
    id = keep(url, "Once more")
    assert request(url, "GET", f"{RESPONSES}/{id}").status == 200
