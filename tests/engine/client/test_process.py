"""What the server finds out about a worker process that has ended."""

from __future__ import annotations

from pathlib import Path

from support import TIMEOUT

from offgrid.engine.client.process import WorkerProcess
from offgrid.engine.protocol.commands import Load


def test_a_worker_that_an_unexpected_error_ends_leaves_its_trace(tiny: Path) -> None:
    process = WorkerProcess(Load(str(tiny), ctx_size=256, cache_dir="\0", cache_disk=1))
    for _ in process.reports():
        pass
    assert process.wait(TIMEOUT) > 0  # no signal
    process.close()
    first, *_, last = process.trace().split("\n")
    assert first == "its last words:"
    assert "Traceback (most recent call last):" in process.trace()
    assert last == "ValueError: embedded null byte"
    assert process.reason() == "Last error: ValueError: embedded null byte"
