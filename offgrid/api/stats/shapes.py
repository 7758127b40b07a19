"""What ``GET /v1/stats`` and ``GET /ready`` return. ``docs/METRICS.md`` describes every field."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from offgrid.api.loaded import Threads
from offgrid.api.shapes import Answer, Count

Number = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
ReadyReason = Literal["draining", "loading", "failed", "stalled"]


class Ready(Answer):
    """The server can answer requests now."""

    status: Literal["ready"]


class NotReady(Answer):
    """The server cannot answer requests now."""

    status: Literal["not ready"]
    reason: Annotated[
        ReadyReason,
        Meta(
            description="draining: the server is stopping; loading or failed: a model that it "
            "loads at start is not loaded, or cannot be; stalled: a worker makes no step."
        ),
    ]


class UsedTokens(Answer):
    """Tokens that requests have used."""

    prompt: Annotated[int, Meta(ge=0, description="Of prompts and inputs.")]
    cached: Annotated[int, Meta(ge=0, description="Those of them that were cached.")]
    completion: Annotated[int, Meta(ge=0, description="Of answers.")]


class ModelTotal(UsedTokens):
    """What requests for one model have used."""

    id: str
    requests: Count


class KeyTotal(UsedTokens):
    """What the requests of one key have used."""

    id: str
    name: str
    requests: Count


class EndpointTotal(Answer):
    """Requests of one method to one endpoint, with one class of status."""

    method: str
    endpoint: Annotated[
        str, Meta(description="As in this document; (unknown) for paths that do not exist.")
    ]
    status: Annotated[str, Meta(description="2xx, 4xx or 5xx; 499 counts as 4xx.")]
    count: Count


class Total(Answer):
    """Sums that survive a restart."""

    since: Annotated[int, Meta(ge=0, description="When counting began, in seconds since 1970.")]
    requests: Count
    tokens: UsedTokens
    endpoints: list[EndpointTotal]
    models: list[ModelTotal]
    keys: list[KeyTotal]


class Percentiles(Answer):
    """Seconds of the latest 1,000 requests: half of them took at most ``p50``."""

    p50: Number
    p90: Number
    p99: Number


class Latency(Answer):
    """How long requests take; null if there was none since the server was started."""

    first_token: Annotated[
        Percentiles | None, Meta(description="From the request to the first token.")
    ]
    per_token: Annotated[
        Percentiles | None, Meta(description="Mean time of each later token of a request.")
    ]
    request: Annotated[Percentiles | None, Meta(description="Whole requests.")]


class Throughput(Answer):
    """Tokens per second that were computed in the last minute."""

    prompt: Number
    completion: Number


class Cells(Answer):
    """Cells for keys and values of tokens."""

    used: Annotated[
        int, Meta(ge=0, description="By running sequences, and by prefixes in idle slots.")
    ]
    total: Count
    fill: Share


class Drafts(Answer):
    """Tokens that were proposed, and those of them that are in answers."""

    proposed: Count
    accepted: Count


class Finished(Answer):
    """Choices by the way in which they ended."""

    stop: Count
    length: Count
    content_filter: Count
    abort: Annotated[int, Meta(ge=0, description="The client left, or the request was given up.")]
    error: Count


class ProcessUse(Answer):
    """What a process uses."""

    rss: Annotated[
        int, Meta(ge=0, description="Bytes in memory, with mapped files and shared pages.")
    ]
    pss: Annotated[
        Count | None,
        Meta(description="The same, with its share of shared pages; null if the system hides it."),
    ]
    cpu_seconds: Number
    cpus: Annotated[float, Meta(ge=0, description="Processors in use in the last seconds.")]
    threads: Count


class ModelStats(Answer):
    """A model that is loaded, or was used since the server was started."""

    id: str
    state: Literal["unloaded", "loading", "ready", "failed"]
    slots: Count
    running: Annotated[int, Meta(ge=0, description="Sequences with a slot.")]
    waiting: Annotated[int, Meta(ge=0, description="Sequences that wait for one.")]
    queue: Annotated[int, Meta(ge=0, description="Sequences that may wait.")]
    cells: Cells
    threads: Threads | None
    steps: Annotated[int, Meta(ge=0, description="Of its present worker.")]
    preemptions: Annotated[int, Meta(ge=0, description="Of its present worker.")]
    without_progress: Annotated[
        Number | None, Meta(description="Seconds since it was idle or ended a step, if loaded.")
    ]
    process: ProcessUse | None
    requests: Count
    tokens: UsedTokens
    drafts: Drafts
    finished: Finished
    throughput: Throughput
    latency: Latency


class DiskSpace(Answer):
    """The disk of a folder."""

    place: Literal["models", "cache", "responses"]
    total: Count
    free: Count


class Gpu(Answer):
    """A GPU that llama.cpp can compute on; bytes of its memory."""

    name: str
    total: Count
    free: Count


class Heat(Answer):
    """The hottest sensor of the processor."""

    sensor: Annotated[str, Meta(description="Its name, as the system calls it.")]
    celsius: float
    high: Annotated[
        float | None,
        Meta(description="From where the system calls it high; null if it does not tell."),
    ]


class BatteryState(Answer):
    """The battery of the machine."""

    percent: Annotated[float, Meta(ge=0)]
    plugged: Annotated[
        bool | None, Meta(description="Whether the machine is plugged in; null if unknown.")
    ]
    seconds: Annotated[Number | None, Meta(description="How long it lasts; null if unknown.")]


class MachineUse(Answer):
    """The machine: bytes of memory, and of its disks."""

    memory: Count
    available: Count
    cpus: Count
    load: Annotated[
        Number | None,
        Meta(description="Processors of the machine that were busy in the last seconds, by all "
             "programs; null at first."),
    ]  # fmt: skip
    temperature: Annotated[
        Heat | None, Meta(description="Null if there is no sensor, or the system hides it.")
    ]
    battery: Annotated[BatteryState | None, Meta(description="Null if there is none.")]
    disks: list[DiskSpace]
    gpus: list[Gpu]


class Places(Answer):
    """Places at the gate: requests that may wait for a model at the same time."""

    taken: Count
    total: Count


class StatsObject(Answer):
    """The statistics of the server."""

    object: Literal["stats"]
    version: str
    status: Literal["ready", "draining", "loading", "failed", "stalled"]
    started: Annotated[int, Meta(ge=0, description="In seconds since 1970.")]
    uptime: Number
    places: Places
    throughput: Throughput
    models: list[ModelStats]
    total: Total
    server: ProcessUse | None
    machine: MachineUse | None


Known = list[Number | None]
"""A number for each point; null where it is not known."""


class TokensOverTime(Answer):
    """Tokens per second that the workers have computed."""

    prompt: list[Number]
    completion: list[Number]


class RequestsOverTime(Answer):
    """POST requests that have ended, by status."""

    answered: Annotated[list[Number], Meta(description="Below 400.")]
    refused: Annotated[list[Number], Meta(description="4xx; also if the client has left.")]
    failed: Annotated[list[Number], Meta(description="5xx.")]


class SequencesOverTime(Answer):
    """Sequences with a slot, those that wait for one, and all slots."""

    running: list[Number]
    waiting: list[Number]
    slots: list[Number]


class MemoryOverTime(Answer):
    """Bytes: what programs could still get, and what the server and all workers use."""

    available: Known
    server: Known
    workers: Known


class StatsSeries(Answer):
    """How the load has developed. All lists are equally long, the oldest point first."""

    object: Literal["stats.series"]
    window: Literal["hour", "day"]
    step: Annotated[
        Number,
        Meta(description="About how many seconds are between two points; gaps are possible."),
    ]
    started: Annotated[int, Meta(ge=0, description="When the server was started.")]
    last: Annotated[
        int,
        Meta(ge=-1, description="Number of the last point; after=NUMBER returns the later ones."),
    ]
    at: Annotated[list[float], Meta(description="When each point ended, in seconds since 1970.")]
    tokens: TokensOverTime
    requests: RequestsOverTime
    sequences: SequencesOverTime
    memory: MemoryOverTime
    cpus: Annotated[Known, Meta(description="Busy processors of the machine.")]
    temperature: Annotated[list[float | None], Meta(description="Degrees Celsius.")]


class StatsSlot(Answer):
    """A slot of a loaded model, and its sequence if it has one. Numbers are tokens."""

    model: str
    slot: Count
    state: Annotated[
        Literal["idle", "prompt", "answer"],
        Meta(description="Idle, or what it computes: a prompt, or an answer."),
    ]
    context: Annotated[int, Meta(ge=0, description="Most tokens that fit.")]
    held: Annotated[int, Meta(ge=0, description="Tokens whose keys and values it holds.")]
    prompt: Annotated[int, Meta(ge=0, description="Of the prompt.")]
    cached: Annotated[int, Meta(ge=0, description="Those of them that were not computed.")]
    completion: Annotated[int, Meta(ge=0, description="Of the answer, up to now.")]
    left: Annotated[int | None, Meta(description="How many more it may have; null if idle.")]
    key: Annotated[
        str | None,
        Meta(description="Name of the key whose request it is, for callers with admin; else null."),
    ]


class StatsSlots(Answer):
    """The slots of all loaded models, as their workers have last said; at most a second old."""

    object: Literal["list"]
    data: list[StatsSlot]
