"""What the statistics are made of, gathered without waiting for a request, a worker or a disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from offgrid import __version__
from offgrid.api.shapes import Json
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.client.pulse import Beat
from offgrid.stats.collected import ModelFigures, Stats
from offgrid.stats.histogram import PERCENTILES, Latest
from offgrid.stats.keeper import StatsKeeper
from offgrid.stats.machine import Machine, Process
from offgrid.stats.ready import Readiness
from offgrid.stats.totals import Totals, Used

REASONS = ("stop", "length", "content_filter", "abort", "error")
_NONE = Used()


@dataclass(frozen=True)
class Source:
    """The parts of the server that know the statistics.

    Attributes:
        stats: what requests have used.
        keeper: what the machine has left.
        pool: the loaded models.
        readiness: whether the server is ready.
        places: returns how many places at the gate are taken, and how many there are.
    """

    stats: Stats
    keeper: StatsKeeper
    pool: EnginePool
    readiness: Readiness
    places: Callable[[], tuple[int, int]] = lambda: (0, 0)

    def snapshot(self) -> Json:
        """Return the body of ``GET /v1/stats``."""
        total = self.stats.totals()
        clients = {client.name: client for client in self.pool.snapshot()}
        machine = self.keeper.machine
        with self.stats.read() as (_, figures):
            models = [
                _model(name, clients.get(name), figures.get(name), machine)
                for name in sorted({*clients, *figures})
            ]
        taken, all_places = self.places()
        return {
            "object": "stats",
            "version": __version__,
            "status": self.readiness.obstacle() or "ready",
            "started": int(self.stats.started),
            "uptime": time.monotonic() - self.stats.began,
            "places": {"taken": taken, "total": all_places},
            "throughput": {
                kind: sum(model["throughput"][kind] for model in models)
                for kind in ("prompt", "completion")
            },
            "models": models,
            "total": _total(total),
            "server": None if machine is None else _process(machine.server),
            "machine": None if machine is None else _machine(machine, list(clients.values())),
        }


def state_of(client: EngineClient | None) -> str:
    """Return the state of a model; None stands for one that is not loaded."""
    if client is None:
        return "unloaded"
    if client.load_failure is not None:
        return "failed"
    return "ready" if client.ready else "loading"


def cells_of(client: EngineClient) -> tuple[int, int]:
    """Return how many cells of a model are in use, and how many it has; 0 while it loads."""
    beat = client.latest
    if beat is None or not client.ready:
        return 0, 0
    total = client.info.n_ctx * client.load.parallel
    return min(beat.figures.cells, total), total


def _model(
    name: str, client: EngineClient | None, figures: ModelFigures | None, machine: Machine | None
) -> Json:
    figures = figures or ModelFigures()
    beat: Beat | None = None if client is None else client.latest
    used, total = (0, 0) if client is None else cells_of(client)
    process = None if machine is None else machine.workers.get(name)
    threads = () if client is None else client.threads
    rates = (0.0, 0.0) if client is None else client.throughput
    ready = client is not None and client.ready
    return {
        "id": name,
        "state": state_of(client),
        "slots": 0 if client is None else client.load.parallel,
        "running": 0 if beat is None else beat.running,
        "waiting": 0 if beat is None else beat.waiting,
        "queue": 0 if client is None else client.capacity - client.load.parallel,
        "cells": {"used": used, "total": total, "fill": used / total if total else 0.0},
        "threads": dict(zip(("decode", "prefill"), threads, strict=False)) or None,
        "steps": 0 if beat is None else beat.figures.steps,
        "preemptions": 0 if beat is None else beat.figures.preempted,
        "without_progress": client.without_progress if ready and client is not None else None,
        "process": _process(process) if client is not None else None,
        "requests": figures.used.requests,
        "tokens": _tokens(figures.used),
        "drafts": {"proposed": figures.drafted, "accepted": figures.draft_accepted},
        "finished": {reason: figures.finished[reason] for reason in REASONS},
        "throughput": {"prompt": rates[0], "completion": rates[1]},
        "latency": {
            "first_token": _percentiles(figures.first_token),
            "per_token": _percentiles(figures.per_token),
            "request": _percentiles(figures.whole),
        },
    }


def _percentiles(latest: Latest) -> Json | None:
    values = latest.percentiles()
    if values is None:
        return None
    return {f"p{p}": value for p, value in zip(PERCENTILES, values, strict=True)}


def _tokens(used: Used) -> Json:
    return {"prompt": used.prompt, "cached": used.cached, "completion": used.completion}


def _total(total: Totals) -> Json:
    used = Used()
    for of_model in total.models.values():
        used.add(of_model)
    return {
        "since": int(total.since),
        "requests": sum(total.requests.values()),
        "tokens": _tokens(used),
        "endpoints": [
            {"method": method, "endpoint": endpoint, "status": status, "count": number}
            for (method, endpoint, status), number in sorted(total.requests.items())
        ],
        "models": [
            {"id": id, "requests": of_model.requests, **_tokens(of_model)}
            for id, of_model in sorted(total.models.items())
        ],
        "keys": [
            {"id": id, "name": key.name, "requests": key.requests, **_tokens(key)}
            for id, key in sorted(total.keys.items())
        ],
    }


def _process(process: Process | None) -> Json | None:
    if process is None:
        return None
    return {
        "rss": process.rss,
        "pss": process.pss,
        "cpu_seconds": process.cpu,
        "cpus": process.busy,
        "threads": process.threads,
    }


def _machine(machine: Machine, clients: list[EngineClient]) -> Json:
    return {
        "memory": machine.memory,
        "available": machine.available,
        "cpus": machine.cpus,
        "load": machine.load,
        "temperature": None if machine.temperature is None else asdict(machine.temperature),
        "battery": None if machine.battery is None else asdict(machine.battery),
        "disks": [
            {"place": place, "total": space.total, "free": space.free}
            for place, space in sorted(machine.disks.items())
        ],
        "gpus": gpus_of(clients),
    }


def gpus_of(clients: list[EngineClient]) -> list[Json]:
    """Return the GPUs, as the workers see them; each once."""
    found: dict[str, Json] = {}
    for client in clients:
        beat = client.latest
        for gpu in () if beat is None else beat.figures.gpus:
            found[gpu.name] = {"name": gpu.name, "total": gpu.total, "free": gpu.free}
    return list(found.values())
