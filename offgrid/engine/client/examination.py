"""Examines a model file in a separate process before another model is unloaded for it."""

from __future__ import annotations

import threading

import msgspec

from offgrid.engine.client.process import WorkerProcess, not_started, public
from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.reports import Examined, LoadFailed

_KILLED = -9
"""Status of a process that was ended by SIGKILL: by a person, for lack of memory, by a timeout."""


class Examination:
    """The examination of one file. If llama.cpp aborts that process, the server continues.

    Args:
        load: the command with which the file would be served.
        timeout: most seconds that the examination may take.
    """

    def __init__(self, load: Load, timeout: float) -> None:
        self._load = msgspec.structs.replace(load, examine=True)
        self._timeout = timeout
        self._lock = threading.Lock()
        self._process: WorkerProcess | None = None
        self._stopped = False

    def run(self) -> LoadFailed | None:
        """Return why the file cannot be loaded; None if no fault is found. Returns only after the
        process has ended."""
        try:
            process = WorkerProcess(self._load)
        except (OSError, RuntimeError) as ex:
            return LoadFailed(not_started(ex))
        with self._lock:
            self._process = process
            stopped = self._stopped
        if stopped:
            process.kill()
        limit = threading.Timer(self._timeout, process.kill)
        limit.name, limit.daemon = "examination-limit", True
        try:
            limit.start()
        except RuntimeError as ex:
            process.end()
            return LoadFailed(not_started(ex))
        verdict: Examined | LoadFailed | None = None
        try:
            for reports in process.reports():
                for report in reports:
                    if isinstance(report, (Examined, LoadFailed)):
                        verdict = report
        except (ValueError, msgspec.DecodeError, OSError):
            process.kill()
        finally:
            limit.cancel()
        status = process.wait()
        process.close()
        if isinstance(verdict, Examined):
            return None
        message = "the process that examined its file died." if verdict is None else verdict.message
        # If the file ended the process, it will again; if another process killed it, it may not.
        lasting = status != _KILLED if verdict is None else verdict.lasting
        reason = f"{public(message, self._load)} {process.reason()}".strip()
        return LoadFailed(reason, lasting)

    def stop(self) -> None:
        """Kill the process, because the server is stopping."""
        with self._lock:
            self._stopped = True
            process = self._process
        if process is not None:
            process.kill()
