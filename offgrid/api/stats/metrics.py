"""The metrics of ``GET /metrics`` for Prometheus.

Where a metric means the same as one of vLLM, it has vLLM's name and labels, so that dashboards and
autoscalers for vLLM work. All others begin with ``offgrid_``. ``docs/METRICS.md`` lists them.

The values of labels are bounded: endpoints are templates of routes, methods and classes of status
come from lists, and models from the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from offgrid import __version__
from offgrid.api.stats.source import REASONS, Source, cells_of, gpus_of, state_of
from offgrid.config import Commit, Settings
from offgrid.engine.client.client import EngineClient
from offgrid.stats.collected import ModelFigures
from offgrid.stats.machine import Machine, Process
from offgrid.stats.totals import OTHERS, Totals

STATES = ("loading", "ready", "failed")
MOST_KEYS = 100
"""Most keys that have separate series."""
_OPENMETRICS = "application/openmetrics-text"
_PLAIN = "text/plain; version=0.0.4; charset=utf-8"
_MODEL = ("model_name", "engine")
_ENGINE = "0"
"""vLLM numbers the engines of a model; here each model has one."""

_HISTOGRAMS = {
    "vllm:time_to_first_token_seconds": (
        "first_token", "Seconds from a request to its first token."
    ),
    "vllm:inter_token_latency_seconds": (
        "per_token", "Seconds between tokens; each counts as the mean of its request."
    ),
    "vllm:time_per_output_token_seconds": (
        "per_token", "The older name of vllm:inter_token_latency_seconds."
    ),
    "vllm:request_time_per_output_token_seconds": (
        "request_per_token", "Mean seconds between tokens of a request."
    ),
    "vllm:e2e_request_latency_seconds": ("whole", "Seconds of whole requests."),
    "vllm:request_queue_time_seconds": ("queue", "Seconds until a prompt got a slot."),
    "vllm:request_prefill_time_seconds": ("prefill", "Seconds of computing a prompt."),
    "vllm:request_decode_time_seconds": ("decode", "Seconds from the first to the last token."),
    "vllm:request_inference_time_seconds": ("inference", "Seconds of prefill and decode."),
    "vllm:request_prompt_tokens": ("prompt_tokens", "Tokens of a prompt."),
    "vllm:request_generation_tokens": ("completion_tokens", "Tokens of the answers to a prompt."),
}  # fmt: skip
"""Name -> the histogram, and its meaning."""


class Metrics(Collector):
    """Collects the metrics of a server.

    Args:
        source: knows the figures.
        with_keys: whether keys have series.
    """

    def __init__(self, source: Source, *, with_keys: bool = False) -> None:
        self._source = source
        self._with_keys = with_keys
        # A registry for this server: the global one would have figures of other libraries.
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def prepare(self, settings: Settings) -> Commit:
        """Take a new ``metrics_keys``."""

        def commit() -> None:
            self._with_keys = settings.metrics_keys

        return commit

    def text(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics in the format that a client accepts, and its media type."""
        kinds = {part.split(";")[0].strip() for part in accept.split(",")}
        if _OPENMETRICS not in kinds:
            return generate_latest(self._registry), _PLAIN
        # All names are valid as they are. Any other scheme would write vllm_ for vllm:.
        text: bytes = openmetrics.generate_latest(  # type: ignore[no-untyped-call]
            self._registry, openmetrics.ALLOWUTF8
        )
        return text, openmetrics.CONTENT_TYPE_LATEST

    def describe(self) -> list[Metric]:
        """Return nothing: the registry need not collect when the server starts."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        source = self._source
        clients = source.pool.snapshot()
        yield from self._of_server()
        yield from _of_models(clients)
        with source.stats.read() as (totals, figures):
            yield from _of_requests(totals)
            yield from _of_figures(figures)
            if self._with_keys:
                yield from _of_keys(totals)
        yield from _of_forwarded(source.stats.forwarded())
        machine = source.keeper.machine
        if machine is not None:
            yield from _of_machine(machine, clients)
        yield from _of_gpus(clients)

    def _of_server(self) -> Iterator[Metric]:
        source = self._source
        taken, total = source.places()
        ready = source.readiness.obstacle() is None
        yield _gauge("offgrid_info", "Always 1.", ("version",), [((__version__,), 1)])
        yield _gauge("offgrid_ready", "1 if /ready returns 200.", (), [((), ready)])
        yield _gauge(
            "offgrid_start_time_seconds", "When the server was started, in seconds since 1970.",
            (), [((), source.stats.started)],
        )  # fmt: skip
        yield _gauge("offgrid_places", "Places at the gate.", (), [((), total)])
        yield _gauge("offgrid_places_taken", "Places at the gate in use.", (), [((), taken)])


def _of_models(clients: list[EngineClient]) -> Iterator[Metric]:
    """Yield what the workers have last said about themselves."""
    beats = [(_of(client.name), client.latest) for client in clients]
    known = [(labels, beat) for labels, beat in beats if beat is not None]
    ready = [client for client in clients if client.ready]
    yield _gauge(
        "offgrid_model_state", "1 for the state of each loaded model.",
        ("model_name", "state"),
        [((c.name, state), state == state_of(c)) for c in clients for state in STATES],
    )  # fmt: skip
    yield _gauge(
        "offgrid_slots", "Slots.", _MODEL,
        [(_of(client.name), client.load.parallel) for client in clients],
    )  # fmt: skip
    yield _gauge(
        "vllm:num_requests_running", "Sequences with a slot.", _MODEL,
        [(labels, beat.running) for labels, beat in known],
    )  # fmt: skip
    yield _gauge(
        "vllm:num_requests_waiting", "Sequences that wait for a slot.", _MODEL,
        [(labels, beat.waiting) for labels, beat in known],
    )  # fmt: skip
    cells = {client.name: cells_of(client) for client in ready}
    yield _gauge(
        "vllm:kv_cache_usage_perc", "Cells in use; 1 means all.", _MODEL,
        [(_of(name), used / total) for name, (used, total) in cells.items() if total],
    )  # fmt: skip
    yield _gauge(
        "offgrid_cells", "Cells for tokens.", _MODEL,
        [(_of(name), total) for name, (_, total) in cells.items()],
    )  # fmt: skip
    yield _gauge(
        "offgrid_threads", "Threads that compute, by kind of step.",
        (*_MODEL, "phase"),
        [
            ((*_of(client.name), phase), count)
            for client in ready
            for phase, count in zip(("decode", "prefill"), client.threads, strict=False)
        ],
    )  # fmt: skip
    yield _gauge(
        "offgrid_without_progress_seconds", "Seconds since a worker was idle or ended a step.",
        _MODEL, [(_of(client.name), client.without_progress) for client in ready],
    )  # fmt: skip
    for name, text, rows in (
        ("vllm:num_preemptions", "Slots that were taken from running sequences.",
         [(labels, beat.figures.preempted) for labels, beat in known]),
        ("offgrid_steps", "Steps of the worker's loop.",
         [(labels, beat.figures.steps) for labels, beat in known]),
        ("offgrid_prefilled_tokens", "Tokens of prompts that were computed.",
         [(labels, beat.figures.prefilled) for labels, beat in known]),
        ("offgrid_sampled_tokens", "Tokens that were sampled, also for requests that go on.",
         [(labels, beat.figures.generated) for labels, beat in known]),
    ):  # fmt: skip
        yield _counter(name, text, _MODEL, rows)


def _of_requests(totals: Totals) -> Iterator[Metric]:
    yield _counter(
        "offgrid_requests", "Requests that have ended.", ("method", "endpoint", "status"),
        [(labels, number) for labels, number in sorted(totals.requests.items())],
    )  # fmt: skip


def _of_forwarded(forwarded: Mapping[tuple[str, str], tuple[int, float]]) -> Iterator[Metric]:
    labels, rows = ("peer", "status"), sorted(forwarded.items())
    yield _counter(
        "offgrid_forwarded_requests", "Requests that were forwarded to a peer and have ended.",
        labels, [(place, number) for place, (number, _) in rows],
    )  # fmt: skip
    yield _counter(
        "offgrid_forwarded_seconds", "Seconds of these requests.",
        labels, [(place, seconds) for place, (_, seconds) in rows],
    )  # fmt: skip


def _of_figures(figures: Mapping[str, ModelFigures]) -> Iterator[Metric]:
    """Yield what requests for each model used and how long they took."""
    models = sorted(figures.items())
    counters: tuple[tuple[str, str, Callable[[ModelFigures], int]], ...] = (
        ("vllm:prompt_tokens", "Tokens of prompts and inputs, with the cached ones.",
         lambda f: f.used.prompt),
        ("vllm:generation_tokens", "Tokens of answers.", lambda f: f.used.completion),
        ("vllm:prefix_cache_queries", "Tokens of prompts that were looked up in the cache.",
         lambda f: f.used.prompt),
        ("vllm:prefix_cache_hits", "Tokens of prompts that were cached.", lambda f: f.used.cached),
        ("vllm:spec_decode_num_draft_tokens", "Proposed tokens.", lambda f: f.drafted),
        ("vllm:spec_decode_num_accepted_tokens", "Proposed tokens that are in answers.",
         lambda f: f.draft_accepted),
    )  # fmt: skip
    for name, text, of in counters:
        yield _counter(name, text, _MODEL, [(_of(model), of(one)) for model, one in models])
    yield _counter(
        "vllm:request_success", "Choices that have ended.", (*_MODEL, "finished_reason"),
        [((*_of(model), why), one.finished[why]) for model, one in models for why in REASONS],
    )  # fmt: skip
    for name, (key, text) in _HISTOGRAMS.items():
        family = HistogramMetricFamily(name, text, labels=_MODEL)
        for model, one in models:
            histogram = one.histograms[key]
            family.add_metric(_of(model), histogram.cumulative(), histogram.total)
        yield family


def _of_keys(totals: Totals) -> Iterator[Metric]:
    requests: dict[str, int] = {}
    tokens: dict[tuple[str, str], int] = {}
    for number, key in enumerate(totals.keys.values()):
        name = key.name if number < MOST_KEYS else OTHERS
        requests[name] = requests.get(name, 0) + key.requests
        for kind in ("prompt", "cached", "completion"):
            tokens[name, kind] = tokens.get((name, kind), 0) + getattr(key, kind)
    yield _counter(
        "offgrid_key_requests", "Requests of a key that have ended.", ("key",),
        [((name,), count) for name, count in requests.items()],
    )  # fmt: skip
    yield _counter(
        "offgrid_key_tokens", "Tokens that requests of a key have used.", ("key", "kind"),
        [*tokens.items()],
    )  # fmt: skip


def _of_machine(machine: Machine, clients: list[EngineClient]) -> Iterator[Metric]:
    """Yield what the processes of the server and of the loaded models use, and the disks."""
    loaded = {client.name for client in clients}
    processes: list[tuple[str, Process]] = [
        ("", machine.server) if machine.server is not None else ("", _NOTHING),
        *sorted((name, one) for name, one in machine.workers.items() if name in loaded),
    ]
    labels = ("process", "model_name")
    named = [(("worker" if name else "server", name), process) for name, process in processes]
    gauges: tuple[tuple[str, str, Callable[[Process], int | None]], ...] = (
        ("offgrid_memory_rss_bytes", "Memory of a process, with mapped files.", lambda p: p.rss),
        ("offgrid_memory_pss_bytes", "Memory of a process, with its share of shared pages.",
         lambda p: p.pss),
        ("offgrid_process_threads", "Threads of a process.", lambda p: p.threads),
    )  # fmt: skip
    for metric, text, of in gauges:
        rows = [(place, of(process)) for place, process in named]
        yield _gauge(metric, text, labels, [(p, v) for p, v in rows if v is not None])
    yield _counter(
        "offgrid_cpu_seconds", "Processor time of a process.", labels,
        [(place, process.cpu) for place, process in named],
    )  # fmt: skip
    yield _gauge(
        "offgrid_memory_available_bytes", "Memory of the machine that programs could get.",
        (), [((), machine.available)],
    )  # fmt: skip
    heat = machine.temperature
    yield _gauge(
        "offgrid_processors_busy", "Processors of the machine that all programs keep busy.",
        (), [] if machine.load is None else [((), machine.load)],
    )  # fmt: skip
    yield _gauge(
        "offgrid_temperature_celsius", "Degrees of the hottest sensor of the processor.",
        (), [] if heat is None else [((), heat.celsius)],
    )  # fmt: skip
    disks = sorted(machine.disks.items())
    yield _gauge(
        "offgrid_disk_free_bytes", "Bytes that the server may still write.", ("place",),
        [((place,), space.free) for place, space in disks],
    )  # fmt: skip
    yield _gauge(
        "offgrid_disk_bytes", "Size of the disk.", ("place",),
        [((place,), space.total) for place, space in disks],
    )  # fmt: skip


_NOTHING = Process(0, None, 0.0, 0.0, 0)
"""Stands for the server if the system does not tell what it uses."""


def _of_gpus(clients: list[EngineClient]) -> Iterator[Metric]:
    gpus = gpus_of(clients)
    for name, text, field in (
        ("offgrid_gpu_memory_bytes", "Memory of a GPU.", "total"),
        ("offgrid_gpu_memory_free_bytes", "Free memory of a GPU.", "free"),
    ):
        yield _gauge(name, text, ("gpu",), [((gpu["name"],), gpu[field]) for gpu in gpus])


Rows = Iterable[tuple[tuple[str, ...], float]]


def _gauge(name: str, text: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _counter(name: str, text: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _of(model: str) -> tuple[str, str]:
    """Return the labels of a model."""
    return model, _ENGINE
