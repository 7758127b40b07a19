"""llama.cpp's RPC: memory of other machines as devices, and a server that lends this machine's.

llama-cpp-python binds nothing of it, so the functions of ggml are called directly
(``ggml-backend.h``, ``ggml-rpc.h``). The RPC is either part of the build of llama.cpp
(``GGML_RPC=on``), or a library that was built apart (``GGML_BACKEND_DL``) and is loaded here.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp.llama_cpp as lc

from offgrid.engine.protocol.commands import Load
from offgrid.engine.worker.llama.build import versions
from offgrid.engine.worker.llama.errors import LoadError
from offgrid.errors import RpcError
from offgrid.rpc.messages import Ask, Device
from offgrid.rpc.probe import PROTOCOL
from offgrid.rpc.tunnel import LOOPBACK, Tunnel

_CPU, _GPU, _INTEGRATED = 0, 1, 2
"""``enum ggml_backend_dev_type``."""
_LOCAL = (b"^output", b"^token_embd")
"""Regular expressions of tensors that stay on this machine. The output layer computes rows of
logits: with 128,256 tokens, one row is 513 kB, which would cross the network for each token. The
token embedding is the output layer of many models."""
_MISSING = (
    "llama.cpp was built without RPC here; compile it with "
    "CMAKE_ARGS=-DGGML_RPC=on, or set rpc_library to a library that was built apart"
)


class _Override(ctypes.Structure):
    """``struct llama_model_tensor_buft_override``."""

    _fields_ = (("pattern", ctypes.c_char_p), ("type", ctypes.c_void_p))


class Rpc:
    """The functions of ggml's RPC.

    Args:
        library: path of a library that was built apart; empty for that of the build.

    Raises:
        RpcError: this llama.cpp has no RPC, or the library does not fit it.
    """

    def __init__(self, library: str = "") -> None:
        lc.llama_backend_init()
        self._ggml = _functions()
        if library:
            if not self._ggml.ggml_backend_load(os.fsencode(library)):
                raise RpcError(
                    f"{library} cannot be loaded as ggml's RPC; build it from the sources of "
                    f"llama-cpp-python {versions()[0]}"
                )
            rpc = ctypes.CDLL(library)
        else:
            rpc = lc._lib
        try:
            self._init = rpc.ggml_backend_rpc_init
            self._serve = rpc.ggml_backend_rpc_start_server
        except AttributeError:
            raise RpcError(_MISSING) from None
        self._init.restype = ctypes.c_void_p
        self._init.argtypes = [ctypes.c_char_p, ctypes.c_uint32]
        self._serve.restype = None
        self._serve.argtypes = [
            ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p,
        ]  # fmt: skip

    def remote_device(self, port: int, number: int) -> int:
        """Return a device of the server on a loopback port. The connection stays open until the
        process ends, so that the server is connected to only once."""
        backend = self._init(f"{LOOPBACK}:{port}".encode(), number)
        return int(self._ggml.ggml_backend_get_device(backend))

    def local_devices(self) -> list[int]:
        """Return what this machine lends: its GPUs, or else its processor."""
        return self.gpus() or [int(self._ggml.ggml_backend_dev_by_type(_CPU))]

    def gpus(self) -> list[int]:
        """Return the graphics cards of this machine, or else its integrated GPUs, as llama.cpp
        chooses them: an integrated one beside a card would only slow it down."""
        ggml = self._ggml
        every = [ggml.ggml_backend_dev_get(index) for index in range(ggml.ggml_backend_dev_count())]
        kinds = [(int(one), ggml.ggml_backend_dev_type(one)) for one in every]
        cards, integrated = ([one for one, kind in kinds if kind == a] for a in (_GPU, _INTEGRATED))
        return cards or integrated

    def describe(self, device: int) -> Device:
        """Return name and memory of a device."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        name: bytes = self._ggml.ggml_backend_dev_description(device) or b""
        # Apple's GPUs use the main memory too, although they do not say so.
        own = self._ggml.ggml_backend_dev_type(device) == _GPU and sys.platform != "darwin"
        return Device(name.decode("utf-8", "replace"), free.value, total.value, own)

    def serve(self, cache_dir: str, threads: int, devices: Sequence[int]) -> None:
        """Serve on a free loopback port, one connection after the other. Returns when the socket
        fails.

        Args:
            cache_dir: folder of tensors that need not be sent; empty for none.
            threads: that compute.
            devices: what is lent.
        """
        given = (ctypes.c_void_p * len(devices))(*devices)
        folder = os.fsencode(cache_dir) if cache_dir else None
        self._serve(f"{LOOPBACK}:0".encode(), folder, threads, len(devices), given)

    def processor_buffers(self) -> int:
        """Return the type of buffers in this machine's memory."""
        return int(self._ggml.ggml_backend_cpu_buffer_type())


class RemoteLayers:
    """The layers of a model that other machines compute.

    The model's first layers stay on this machine, the following ones go to the servers in their
    order, and the last ones to this machine's GPUs if it has some. Without GPUs, the output layer
    stays with the processor.

    Args:
        load: how the model is loaded; ``load.rpc`` says which server gets how many layers.
        lost: called with what happened if a server is lost.

    Raises:
        LoadError: a server cannot be used.
    """

    def __init__(self, load: Load, lost: Callable[[str], None]) -> None:
        self._tunnels: list[Tunnel] = []
        try:
            rpc, build = Rpc(load.rpc_library), build_text()
            # Ask all servers before llama.cpp is connected to one.
            after = load.remote_layers + max(0, load.gpu_layers)
            for placed in load.rpc:
                after -= placed.layers
                ask = Ask("lend", build, "", load.sha256, placed.layers, after)
                self._tunnels.append(Tunnel(placed.server, ask, lost))
                # The next server may need minutes to prepare, and this one expects beats.
                self._tunnels[-1].start()
        except RpcError as ex:
            self.close()
            raise LoadError(f"{ex}.") from None
        devices: list[int] = []
        layers: list[int] = []
        for tunnel, placed in zip(self._tunnels, load.rpc, strict=True):
            numbers = range(len(tunnel.devices))
            devices += [rpc.remote_device(tunnel.port, number) for number in numbers]
            layers += divided(placed.layers, tunnel.devices)
        gpus = rpc.gpus() if load.gpu_layers > 0 else []
        devices += gpus
        layers += divided(load.gpu_layers, [rpc.describe(one).free for one in gpus])
        layers[-1] += 1  # the output layer counts as one
        self._layers = sum(placed.layers for placed in load.rpc) + (load.gpu_layers if gpus else 0)
        self._devices = (ctypes.c_void_p * (len(devices) + 1))(*devices, None)
        most = max(len(layers), int(lc.llama_max_devices()))
        self._split = (ctypes.c_float * most)(*layers)
        buffers = rpc.processor_buffers()
        local = [] if gpus else [_Override(pattern, buffers) for pattern in _LOCAL]
        self._overrides = (_Override * (len(local) + 1))(*local, _Override(None, None))

    def apply(self, params: lc.llama_model_params) -> None:
        """Let a model be loaded so. This object must live as long as the model."""
        params.devices = ctypes.cast(self._devices, ctypes.c_void_p)
        params.n_gpu_layers = self._layers + 1
        params.tensor_split = self._split
        params.tensor_buft_overrides = ctypes.cast(self._overrides, ctypes.c_void_p)

    def close(self) -> None:
        """End the sessions. Idempotent."""
        for tunnel in self._tunnels:
            tunnel.close()


def divided(layers: int, free: Sequence[int]) -> list[int]:
    """Divide layers among the devices of a machine in proportion to their free memory."""
    counts: list[int] = []
    left, memory = layers, sum(free)
    for index, one in enumerate(free):
        # Without any free memory as far as is known, each gets as much.
        part = round(left * one / memory) if memory else left // (len(free) - index)
        counts.append(part)
        left -= part
        memory -= one
    return counts


def build_text() -> str:
    """Return what tells this build of llama.cpp from others that cannot compute together with it,
    in words for messages."""
    binding, ggml = versions()
    return f"llama-cpp-python {binding}, ggml {ggml}, RPC {'.'.join(map(str, PROTOCOL))}"


def _functions() -> Any:
    """Return llama.cpp's library with the types of the functions that are used here.

    Raises:
        RpcError: the system does not find them.
    """
    lib, pointer, size = lc._lib, ctypes.c_void_p, ctypes.c_size_t
    to_size = ctypes.POINTER(size)
    types: dict[str, tuple[Any, list[Any]]] = {
        "ggml_backend_load": (pointer, [ctypes.c_char_p]),
        "ggml_backend_get_device": (pointer, [pointer]),
        "ggml_backend_dev_by_type": (pointer, [ctypes.c_int]),
        "ggml_backend_dev_count": (size, []),
        "ggml_backend_dev_get": (pointer, [size]),
        "ggml_backend_dev_type": (ctypes.c_int, [pointer]),
        "ggml_backend_dev_memory": (None, [pointer, to_size, to_size]),
        "ggml_backend_dev_description": (ctypes.c_char_p, [pointer]),
        "ggml_backend_cpu_buffer_type": (pointer, []),
    }
    try:
        for name, (result, arguments) in types.items():
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError:
        raise RpcError("llama.cpp's RPC cannot be used on this system") from None
    return lib
