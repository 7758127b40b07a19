"""The table of all settings: name, group, kind, default, meaning, range.

A test compares ``docs/CONFIGURATION.md`` with this table.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

from offgrid.config.model import ModelSettings
from offgrid.config.network import is_loopback
from offgrid.config.setting import Setting

GROUPS = (
    "Models", "Speed and memory", "Network", "Peers", "Access", "Limits", "Requests",
    "Stored responses", "Log",
)  # fmt: skip
"""The groups of settings, in the order of ``--help``."""
KV_TYPES = ("f16", "f32", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
"""Types of the elements of keys and values. All after the first three are quantised."""
QUANTISED_KV_TYPES = frozenset(KV_TYPES[3:])
MAX_REQUESTS = 5120
"""Requests that may wait for models at once: each holds a thread."""
_BESIDES = 8
"""Requests in addition to one for each sequence: those that only use the tokeniser while all queues
are full, and those that are refused because the queue is full."""
_PART, _LEAST = 4, 8
"""Requests beyond all of these, for callers that have fewer than their share: a fourth of them, and
at least 8."""


def default_models_dir() -> Path:
    """Return ``/var/lib/offgrid/models`` if it is a readable folder, else a folder in the home."""
    shared = Path("/var/lib/offgrid/models")
    if shared.is_dir() and os.access(shared, os.R_OK | os.X_OK):
        return shared
    return Path("~/.offgrid-llm/models").expanduser()


def default_responses_file() -> Path:
    """Return a file in the home, because conversations, unlike models, are private."""
    return Path("~/.offgrid-llm/responses.sqlite3").expanduser()


def default_keys_file() -> Path:
    """Return a file in the home, because only its owner may change who has access."""
    return Path("~/.offgrid-llm/keys.sqlite3").expanduser()


TABLE: tuple[Setting, ...] = (
    Setting(
        "host",
        "Network",
        "str",
        "127.0.0.1",
        "Address to listen on: 0.0.0.0 for all of IPv4, :: for all of IPv6. Any address other than "
        "this machine's loopback also needs a key ('offgrid keys create'), or insecure.",
    ),
    Setting(
        "port",
        "Network",
        "int",
        11611,
        "TCP port to listen on. 0 picks a free port, which is printed at start.",
        low=0,
        high=65535,
        short="-p",
    ),
    Setting(
        "socket",
        "Network",
        "str",
        "",
        "Path of a Unix socket to listen on, instead of host and port; or fd:3 for a listening "
        "socket that systemd passes on.",
        not_paths=("fd:",),
    ),
    Setting(
        "socket_mode",
        "Network",
        "str",
        "600",
        "Who may connect to the Unix socket: 600 the same account, 660 also its group, 666 every "
        "account of this machine.",
        choices=("600", "660", "666"),
    ),
    Setting(
        "ollama",
        "Network",
        "bool",
        False,
        "Also listen on port 11434 of host, where programs that are made for Ollama look for it.",
    ),
    Setting(
        "ui",
        "Network",
        "bool",
        True,
        "Serve the web page at /ui, and lead browsers that open / there.",
    ),
    Setting(
        "insecure",
        "Network",
        "bool",
        False,
        "Serve other machines although the server has no keys: everybody who reaches the address may "
        "use it. Only for a network you trust.",
        aliases=("allow_remote",),
    ),
    Setting(
        "allowed_hosts",
        "Network",
        "list",
        (),
        "Further names, comma-separated, that a request's Host header may contain. Loopback names "
        "and the value of host are always allowed; if other machines may connect, so are every IP "
        "address and this machine's name, also with .local. All others are refused, which "
        "prevents DNS rebinding.",
    ),
    Setting(
        "cors_origins",
        "Network",
        "list",
        (),
        "Web origins (scheme://host:port), comma-separated, whose pages may call the API. "
        "Pages of any other origin are refused.",
    ),
    Setting(
        "trusted_proxies",
        "Network",
        "list",
        (),
        "Addresses or networks, comma-separated, of the proxies in front of this server, and unix "
        "for those that connect to its Unix socket. Only their X-Forwarded-For, -Proto and -Host "
        "headers are used.",
    ),
    Setting(
        "tls_cert",
        "Network",
        "path",
        None,
        "PEM file with the server's certificate, followed by those of its issuers. With it, the "
        "server speaks HTTPS only.",
    ),
    Setting(
        "tls_key",
        "Network",
        "path",
        None,
        "PEM file with the private key of tls_cert, without a password. If it is not given, the key "
        "is in the file of the certificate.",
    ),
    Setting(
        "peers",
        "Peers",
        "bool",
        False,
        "Work with other OffGrid machines on the network that were paired with this one: use their "
        "models, and copy them. Needs pip install 'offgrid-llm[peers]'.",
    ),
    Setting(
        "peers_host",
        "Peers",
        "str",
        "0.0.0.0",
        "Address to listen on for peers: 0.0.0.0 for all of IPv4, :: for all of IPv6. Only machines "
        "that were paired can connect.",
    ),
    Setting(
        "peers_port",
        "Peers",
        "int",
        11612,
        "TCP port for peers. 0 picks a free port.",
        low=0,
        high=65535,
    ),
    Setting(
        "peers_name",
        "Peers",
        "str",
        "",
        "The name of this machine that peers show; its host name by default.",
    ),
    Setting(
        "peers_discovery",
        "Peers",
        "bool",
        True,
        "Announce this machine on the network by mDNS, and look for others. Being found makes no "
        "machine a peer.",
    ),
    Setting(
        "peer_addresses",
        "Peers",
        "list",
        (),
        "Addresses of other OffGrid machines, comma-separated, such as 192.168.1.7 or "
        "ship-2.example:11612, for networks that block mDNS.",
    ),
    Setting(
        "peers_dir",
        "Peers",
        "path",
        None,
        "Folder of this machine's certificate, its key, and the book of paired machines.",
    ),
    Setting(
        "rpc_servers",
        "Peers",
        "list",
        (),
        "Machines that lend memory with 'offgrid rpc-worker', comma-separated, for models that are "
        "too large for this one: names or ids of peers, with :port if it is not 11613; or peers for "
        "all of them. Also host:port of llama.cpp's RPC on this machine, such as the end of an SSH "
        "tunnel.",
    ),
    Setting(
        "rpc_layers",
        "Peers",
        "int",
        -1,
        "Number of a model's layers that go to rpc_servers. auto (or -1) means only those that have "
        "no room on this machine, 0 none; all also divides models that have room here.",
        low=-1,
        high=100000,
        words=(("auto", -1), ("all", 100000)),
    ),
    Setting(
        "rpc_library",
        "Peers",
        "path",
        None,
        "File of llama.cpp's RPC (libggml-rpc.so) that was compiled apart. Without it, llama.cpp "
        "itself must have been compiled with GGML_RPC=on.",
    ),
    Setting(
        "rpc_cache_mb",
        "Peers",
        "mib",
        -1,
        "MiB of disk in which 'offgrid rpc-worker' keeps tensors of models that this machine has "
        "too, so that they need not cross the network. auto (-1) means a fourth of the free disk, "
        "0 none.",
        low=-1,
        high=1 << 24,
        words=(("auto", -1),),
    ),
    Setting(
        "rpc_host",
        "Peers",
        "str",
        "0.0.0.0",
        "Address on which 'offgrid rpc-worker' listens for peers.",
    ),
    Setting(
        "rpc_port",
        "Peers",
        "int",
        11613,
        "TCP port on which 'offgrid rpc-worker' listens for peers. 0 picks a free port.",
        low=0,
        high=65535,
    ),
    Setting(
        "keys_file",
        "Access",
        "path",
        None,
        "SQLite file of the keys, which offgrid keys creates. As soon as it contains a key, requests "
        "need one.",
    ),
    Setting(
        "models_dir",
        "Models",
        "path",
        None,
        "Folder of GGUF files, searched with its subfolders. If this setting is given, the folder "
        "must exist and contain a model. If it is not given and its default contains no model, "
        "the bundled starter model is served.",
    ),
    Setting(
        "import_roots",
        "Models",
        "list",
        ("removable",),
        "Folders, comma-separated, from which requests to /v1/import may copy models, and to which "
        "/v1/export may. removable stands for the usual places of sticks and cards; none forbids "
        "imports from folders and exports through the API.",
    ),
    Setting(
        "model",
        "Models",
        "str",
        "",
        "Model to load at start, and to answer requests that name none: an id from the models "
        "directory, or the path of a GGUF file in any folder.",
        aliases=("default_model",),
        short="-m",
    ),
    Setting(
        "model_aliases",
        "Models",
        "map",
        (),
        "Further names of models, as name=id, comma-separated. A request may use the name instead "
        "of the id.",
    ),
    Setting(
        "chat_template",
        "Models",
        "str",
        "",
        "Chat template of the default model, instead of the one in its file: the path of a Jinja "
        "file, or chatml.",
        not_paths=("chatml",),
    ),
    Setting(
        "draft_model",
        "Models",
        "str",
        "",
        "Draft model of the default model, which makes its answers faster: the id or the path of a "
        "much smaller model with the same vocabulary. It is not loaded if drafts is off.",
    ),
    Setting(
        "max_models",
        "Models",
        "int",
        3,
        "Maximum number of models loaded at the same time. The least recently used idle model "
        "is unloaded to make room for another.",
        low=1,
        high=64,
    ),
    Setting(
        "memory_budget",
        "Models",
        "mib",
        -1,
        "Memory that all loaded models together may take, in MiB or such as 6GiB; they never get "
        "more than is free. 0 loads models without comparing what they need with what is free; "
        "free (-1) sets no other limit.",
        low=-1,
        high=1 << 24,
        words=(("free", -1),),
    ),
    Setting(
        "keep_alive",
        "Speed and memory",
        "lifetime",
        3600.0,
        "How long a model stays loaded after its last request: seconds, or a time such as 5m or "
        "1h30m. 0 unloads it at once; -1 or forever keeps it until another model needs its place.",
    ),
    Setting(
        "parallel",
        "Speed and memory",
        "int",
        4,
        "Slots of each model: the number of sequences that it generates at the same time. Each "
        "slot has its own context in memory.",
        low=1,
        high=256,
        short="-np",
    ),
    Setting(
        "ctx_size",
        "Speed and memory",
        "count",
        4096,
        "Context length of a slot in tokens, prompt plus answer. 0 means the length that the "
        "model was trained with, which is also the maximum.",
        low=0,
        high=1 << 22,
        aliases=("max_context",),
        short="-c",
    ),
    Setting(
        "batch_size",
        "Speed and memory",
        "count",
        512,
        "Maximum number of tokens in one decode call.",
        low=32,
        high=8192,
    ),
    Setting(
        "threads",
        "Speed and memory",
        "int",
        0,
        "Number of threads that llama.cpp computes with. 0 (or auto) finds the best number by "
        "measuring, again and again, because other programs come and go.",
        low=0,
        high=1024,
        aliases=("num_threads",),
        words=(("auto", 0),),
    ),
    Setting(
        "gpu_layers",
        "Speed and memory",
        "int",
        0,
        "Number of the model's layers to put on a GPU, if llama.cpp was built for one. all (or "
        "-1) means every layer.",
        low=-1,
        high=100000,
        aliases=("n_gpu_layers",),
        short="-ngl",
        words=(("all", -1),),
    ),
    Setting(
        "flash_attention",
        "Speed and memory",
        "str",
        "auto",
        "Whether llama.cpp computes attention in one pass that keeps no scores. auto measures both "
        "ways and takes the better one.",
        choices=("auto", "on", "off"),
        aliases=("flash_attn",),
        short="-fa",
    ),
    Setting(
        "kv_type_k",
        "Speed and memory",
        "str",
        KV_TYPES[0],
        "Type of the keys in the cache. A quantised type takes less memory and rounds more.",
        choices=KV_TYPES,
        aliases=("cache_type_k",),
        short="-ctk",
    ),
    Setting(
        "kv_type_v",
        "Speed and memory",
        "str",
        KV_TYPES[0],
        "Type of the values in the cache. A quantised type needs flash attention, and turns it on.",
        choices=KV_TYPES,
        aliases=("cache_type_v",),
        short="-ctv",
    ),
    Setting(
        "use_mmap",
        "Speed and memory",
        "bool",
        True,
        "Map the model file into memory instead of reading it. Turn this off for files on "
        "removable media.",
    ),
    Setting(
        "use_mlock",
        "Speed and memory",
        "bool",
        False,
        "Lock the model in memory so that it is never swapped out.",
    ),
    Setting(
        "swa_full",
        "Speed and memory",
        "bool",
        False,
        "Keep all tokens of a slot in the layers that attend to a sliding window. By default they "
        "keep little more than the window, and checkpoints take the place of the rest.",
    ),
    Setting(
        "checkpoints_mb",
        "Speed and memory",
        "mib",
        256,
        "Memory for the checkpoints of each model whose sequences cannot be cut anywhere (recurrent "
        "or hybrid models, sliding windows), in MiB. 0 keeps none.",
        low=0,
        high=1 << 20,
    ),
    Setting(
        "cache_ram_mb",
        "Speed and memory",
        "mib",
        -1,
        "Memory of each model for prefixes of prompts that were evicted from its slots, in MiB or "
        "such as 2GiB. auto (-1) means an eighth of the memory that the model leaves free, at "
        "most 512 MiB, and nothing if memory_budget is set. 0 keeps none in memory.",
        low=-1,
        high=1 << 24,
        words=(("auto", -1),),
    ),
    Setting(
        "cache_dir",
        "Speed and memory",
        "path",
        None,
        "Folder for prefixes that are kept on disk, so that they need not be computed again after a "
        "restart or a change of models.",
    ),
    Setting(
        "cache_disk_mb",
        "Speed and memory",
        "mib",
        -1,
        "Size of cache_dir over all models, in MiB or such as 8GiB. The least recently used "
        "prefixes are deleted first. auto (-1) means 4 GiB, or a tenth of the free disk if that is "
        "less. 0 writes none to disk and reads none.",
        low=-1,
        high=1 << 24,
        words=(("auto", -1),),
    ),
    Setting(
        "share_prefixes",
        "Speed and memory",
        "str",
        "key",
        "Which requests share computed prefixes, if the server has keys: those with the same key, or "
        "all. With all, the time to the first token can tell a client whether another one has sent "
        "the same text. Without keys all requests share them.",
        choices=("key", "all"),
    ),
    Setting(
        "drafts",
        "Speed and memory",
        "bool",
        True,
        "Propose the next tokens of answers that repeat their prompt or follow a schema, and "
        "compute several of them in one step where that is faster. The answers are the same.",
    ),
    Setting(
        "open_objects",
        "Requests",
        "bool",
        False,
        "Let objects have members that their JSON schema does not describe, as the standard says. "
        "By default only a schema with additionalProperties allows them.",
    ),
    Setting(
        "reasoning_budget",
        "Requests",
        "int",
        -1,
        "Maximum number of tokens of reasoning in an answer, for requests without "
        "reasoning_budget_tokens. 0 asks for answers without reasoning; -1 (or unlimited) sets no "
        "limit.",
        low=-1,
        high=(1 << 31) - 1,
        words=(("unlimited", -1),),
    ),
    Setting(
        "queue_size",
        "Limits",
        "int",
        16,
        "Maximum number of sequences of one client that wait for a slot of one model. Further "
        "requests immediately get 503 with Retry-After. Several clients share the queue.",
        low=0,
        high=1024,
    ),
    Setting(
        "queue_timeout",
        "Limits",
        "duration",
        0.0,
        "Time that a sequence may wait for a slot before its request gets 503. 0 means as "
        "long as the client stays connected.",
        low=0,
        high=86400,
    ),
    Setting(
        "load_timeout",
        "Limits",
        "duration",
        300.0,
        "Time that loading a model may take.",
        low=1,
        high=86400,
        aliases=("model_load_timeout",),
    ),
    Setting(
        "stall_timeout",
        "Limits",
        "duration",
        120.0,
        "Time that one step of a worker may take before the worker counts as stuck and is "
        "restarted.",
        low=1,
        high=86400,
    ),
    Setting(
        "ready_timeout",
        "Limits",
        "duration",
        30.0,
        "Time that a worker may work without ending a step, or be silent, before /ready returns "
        "503.",
        low=1,
        high=86400,
    ),
    Setting(
        "drain_timeout",
        "Limits",
        "duration",
        30.0,
        "Time that running requests have to finish after Ctrl-C or SIGTERM.",
        low=0,
        high=86400,
    ),
    Setting(
        "sse_ping_interval",
        "Limits",
        "duration",
        10.0,
        "Time without data after which a comment line is sent to keep a stream's connection "
        "open. 0 turns this off.",
        low=0,
        high=3600,
    ),
    Setting(
        "max_body_mb",
        "Limits",
        "mib",
        8,
        "Maximum size of a request body in MiB. A larger body gets 413.",
        low=1,
        high=1024,
    ),
    Setting(
        "request_timeout",
        "Limits",
        "duration",
        0.0,
        "Time that a request may take in all, with its waiting and its answer. After that it gets "
        "504, or its stream ends with an error event. 0 means no limit.",
        low=0,
        high=86400,
    ),
    Setting(
        "requests_per_minute",
        "Limits",
        "count",
        0,
        "Maximum number of requests per minute of each key, or of each address without a key. "
        "Further requests get 429 with Retry-After. 0 means no limit.",
        low=0,
        high=1000000,
    ),
    Setting(
        "tokens_per_minute",
        "Limits",
        "count",
        0,
        "Maximum number of tokens per minute of each key, or of each address without a key; those "
        "of prompts and answers together. 0 means no limit.",
        low=0,
        high=1000000000,
    ),
    Setting(
        "concurrent_requests",
        "Limits",
        "int",
        0,
        "Maximum number of requests of each key, or of each address without a key, that run or "
        "wait at the same time. Further requests get 429 with Retry-After. 0 means no limit.",
        low=0,
        high=4096,
    ),
    Setting(
        "max_tokens",
        "Limits",
        "count",
        0,
        "Maximum number of tokens of one answer. A request for more gets 400; an answer to a "
        "request for no certain number ends there. 0 means no limit but the context.",
        low=0,
        high=(1 << 31) - 1,
    ),
    Setting(
        "max_messages",
        "Limits",
        "int",
        40000,
        "Maximum number of messages of one conversation. More get 400.",
        low=1,
        high=40000,
    ),
    Setting(
        "max_json_depth",
        "Limits",
        "int",
        500,
        "Maximum number of levels of lists and objects in a request body. More get 400.",
        low=8,
        high=500,
    ),
    Setting(
        "max_schema_kb",
        "Limits",
        "int",
        256,
        "Maximum size of one JSON schema in KiB. A larger one gets 400.",
        low=1,
        high=256,
    ),
    Setting(
        "unknown_fields",
        "Requests",
        "str",
        "refuse",
        "What happens to a request with a field that this server does not know: refuse returns 400 "
        "and names the field; ignore accepts it, and names it in the response header "
        "x-offgrid-ignored and in the log.",
        choices=("refuse", "ignore"),
    ),
    Setting(
        "filter_file",
        "Requests",
        "str",
        "",
        "File with phrases and regular expressions. An answer ends before the first match, and a "
        "prompt that matches gets 400. Empty for no filter.",
        not_paths=(),
    ),
    Setting(
        "max_responses",
        "Stored responses",
        "count",
        10000,
        "Maximum number of responses and conversations that are stored. The least recently used "
        "are deleted first. 0 disables storage.",
        low=0,
        high=1000000,
    ),
    Setting(
        "max_responses_mb",
        "Stored responses",
        "mib",
        1024,
        "Maximum size of the stored responses and conversations with their items, in MiB.",
        low=1,
        high=1 << 20,
    ),
    Setting(
        "responses_file",
        "Stored responses",
        "path",
        None,
        "SQLite file for stored responses and conversations, created on first use.",
    ),
    Setting(
        "history",
        "Stored responses",
        "bool",
        True,
        "Keep the conversations of the web page on the server (/v1/history). If false, they live in "
        "the page only, and nothing of them is stored.",
    ),
    Setting(
        "history_file",
        "Stored responses",
        "path",
        None,
        "SQLite file for the history of the web page, created on first use.",
    ),
    Setting(
        "max_history_mb",
        "Stored responses",
        "mib",
        1024,
        "Maximum size of the history of one key, or of all clients without keys, in MiB. When it is "
        "reached, nothing more is stored; nothing is deleted.",
        low=1,
        high=1 << 20,
    ),
    Setting(
        "log_level",
        "Log",
        "str",
        "info",
        "Least severe level of the messages logged to standard error. info has a line for each "
        "request that has ended; debug also one for each that begins, and those of monitors; trace "
        "also llama.cpp's own lines.",
        choices=("trace", "debug", "info", "warning", "error"),
    ),
    Setting(
        "log_format",
        "Log",
        "str",
        "text",
        "Form of the log: text, or json for one JSON object per line.",
        choices=("text", "json"),
    ),
    Setting(
        "log_prompts",
        "Log",
        "bool",
        False,
        "Also log the bodies of requests, with prompts, at log_level debug. For finding faults "
        "only: the log then contains what people wrote.",
    ),
    Setting(
        "metrics_keys",
        "Log",
        "bool",
        False,
        "Let /metrics show requests and tokens of each key, under the name of the key.",
    ),
    Setting(
        "core_dumps",
        "Log",
        "bool",
        False,
        "Let the system write a core dump if the server or a worker crashes. A dump contains the "
        "texts of all users.",
    ),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings in force. Its fields are the rows of :data:`TABLE`, in order, and a few more."""

    host: str
    port: int
    socket: str
    socket_mode: str
    ollama: bool
    ui: bool
    insecure: bool
    allowed_hosts: tuple[str, ...]
    cors_origins: tuple[str, ...]
    trusted_proxies: tuple[str, ...]
    tls_cert: Path | None
    tls_key: Path | None
    peers: bool
    peers_host: str
    peers_port: int
    peers_name: str
    peers_discovery: bool
    peer_addresses: tuple[str, ...]
    peers_dir: Path
    rpc_servers: tuple[str, ...]
    rpc_layers: int
    rpc_library: Path | None
    rpc_cache_mb: int
    rpc_host: str
    rpc_port: int
    keys_file: Path
    models_dir: Path
    import_roots: tuple[str, ...]
    model: str
    model_aliases: tuple[tuple[str, str], ...]
    chat_template: str
    draft_model: str
    max_models: int
    memory_budget: int
    keep_alive: float
    parallel: int
    ctx_size: int
    batch_size: int
    threads: int
    gpu_layers: int
    flash_attention: str
    kv_type_k: str
    kv_type_v: str
    use_mmap: bool
    use_mlock: bool
    swa_full: bool
    checkpoints_mb: int
    cache_ram_mb: int
    cache_dir: Path
    cache_disk_mb: int
    share_prefixes: str
    drafts: bool
    open_objects: bool
    reasoning_budget: int
    queue_size: int
    queue_timeout: float
    load_timeout: float
    stall_timeout: float
    ready_timeout: float
    drain_timeout: float
    sse_ping_interval: float
    max_body_mb: int
    request_timeout: float
    requests_per_minute: int
    tokens_per_minute: int
    concurrent_requests: int
    max_tokens: int
    max_messages: int
    max_json_depth: int
    max_schema_kb: int
    unknown_fields: str
    filter_file: str
    max_responses: int
    max_responses_mb: int
    responses_file: Path
    history: bool
    history_file: Path
    max_history_mb: int
    log_level: str
    log_format: str
    log_prompts: bool
    metrics_keys: bool
    core_dumps: bool
    models_dir_source: str = ""
    """Where ``models_dir`` was set, in words for messages; empty if it has its default value."""
    model_paths: tuple[Path, ...] = ()
    """Files and folders of models that were given to ``offgrid serve`` without a flag."""
    given: frozenset[str] = frozenset()
    """Names of the settings that someone has set."""
    models: tuple[ModelSettings, ...] = ()
    """The settings of single models."""

    @property
    def by_address(self) -> bool:
        """Whether the server may have an IP address: a socket that is passed on may be of any kind."""
        return not self.socket or self.socket.startswith("fd:")

    @property
    def serves_others(self) -> bool:
        """Whether the settings let other machines connect."""
        return self.by_address and (self.insecure or not is_loopback(self.host))

    @property
    def usual_requests(self) -> int:
        """How many requests of one caller may wait for models at once."""
        return (self.most_parallel + self.queue_size) * self.max_models + _BESIDES

    @property
    def more_requests(self) -> int:
        """How many requests of other callers may wait in addition."""
        return max(_LEAST, self.usual_requests // _PART)

    @property
    def most_parallel(self) -> int:
        """The largest number of slots that a model has."""
        return max([self.parallel, *(own.parallel or 0 for own in self.models)])


assert all(setting.group in GROUPS for setting in TABLE)
BY_NAME = {name: setting for setting in TABLE for name in setting.names}
"""Name or alias -> its row."""
assert [field.name for field in fields(Settings)][: len(TABLE)] == [row.name for row in TABLE]
