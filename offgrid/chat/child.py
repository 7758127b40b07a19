"""Renders templates in a separate process, which is started when the first one needs it.

Most templates never do: see :class:`offgrid.chat.sandbox.Uninterruptible`.
"""

from __future__ import annotations

import atexit
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import Any

from jinja2 import TemplateError

from offgrid.chat.budget import Budget, TemplateLimit
from offgrid.chat.renderer import SECONDS, read_frame, write_frame
from offgrid.chat.words import packed

log = logging.getLogger(__name__)

PATIENCE = 2.0 * SECONDS
"""Seconds of waiting for a rendering: the process may be one of many on a busy machine."""
_ENDED = "the chat template needs more memory or time than a rendering may take"


class Renderer:
    """The process and its pipes. Thread-safe: one rendering at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def render(self, source: str, variables: dict[str, Any], budget: Budget) -> str:
        """Render a template.

        Raises:
            TemplateLimit: it needs more than its budget, or its process had to be ended.
            TemplateError: the template's error.
        """
        steps, text, seconds = budget.left()
        request = {
            "source": source, "variables": packed(variables),
            "steps": steps, "text": text, "seconds": seconds,
        }  # fmt: skip
        with self._lock:
            result = self._ask(request)
        if result is None:
            budget.set_left(-1, -1, -1.0)
            raise TemplateLimit(_ENDED)
        budget.set_left(result["steps"], result["text"], result["seconds"])
        if "limit" in result:
            raise TemplateLimit(result["limit"])
        if "error" in result:
            raise TemplateError(result["error"] or result["kind"])
        return str(result["written"])

    def _ask(self, request: dict[str, Any]) -> Any:
        """Return the result; None if the process ended without one."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        limit = threading.Timer(PATIENCE, process.kill)
        limit.name = "template-limit"
        limit.daemon = True
        limit.start()
        try:
            write_frame(process.stdin, request)
            result = read_frame(process.stdout)
        except OSError:
            result = None
        finally:
            limit.cancel()
        if result is None:
            log.warning("the process that renders templates ended: %s", _ENDED)
            self._end()
        return result

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            started: Future[subprocess.Popen[bytes]] = Future()
            # The kernel ends the process together with the thread that has started it, and the
            # thread of a request may end while another one uses the process.
            keeper = threading.Thread(target=_keep, args=(started,), name="template-process")
            keeper.daemon = True
            keeper.start()
            self._process = started.result()
        return self._process

    def close(self) -> None:
        """End the process, if there is one. The next rendering starts another."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    log.debug("pipe already broken")


def _keep(started: Future[subprocess.Popen[bytes]]) -> None:
    """Start a process, and live as long as it does."""
    # As for the worker: the process must import the same modules as this one.
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from offgrid.engine.worker.birth import depend_on; depend_on({os.getpid()}); "
        "from offgrid.chat.renderer import main; main()"
    )
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
    except BaseException as ex:
        started.set_exception(ex)
        return
    started.set_result(process)
    process.wait()


RENDERER = Renderer()
"""One for all models."""
atexit.register(RENDERER.close)
