"""Chooses how a model is loaded, so that it fits into the memory that is free.

Settings that the user has set are kept: if they do not fit, the model is not loaded, and the
message says which values would fit. The defaults may be lowered, in this order: the file is read
instead of mapped, which saves the second copy of weights; then there are fewer slots; then, if no
other model could make room, a shorter context. Without a setting, saved prefixes get a part of the
memory that is left then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from msgspec import structs

from offgrid.config import BY_NAME
from offgrid.engine import kv_types
from offgrid.engine.client.estimate import Estimate, context_of, estimate
from offgrid.engine.client.processor import Repacked, repacked_types
from offgrid.engine.client.spread import AUTOMATIC, Borrowed, Demand, Lent, borrowed, spread
from offgrid.engine.memory import MIB, written
from offgrid.engine.protocol.commands import Load
from offgrid.rpc.endpoint import Placed
from offgrid.store.sizes import ModelSizes

UNLIMITED = 1 << 62
"""Free memory if it is not checked."""
_LEAST_CONTEXT = 1024
"""Tokens. A default context is not lowered any further: hardly a conversation fits into less."""
_CONTEXT_STEP = 512
_MOST_PREFIXES, _LEAST_PREFIXES, _PREFIXES_SHARE = 512, 32, 8
"""Most and least MiB of memory for saved prefixes, and the part (1/8) that they may take of what
the model leaves free."""
_CONTEXTS = 64
"""About so many contexts are tried: long ones in larger steps."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that is to be loaded.

    Attributes:
        load: how, if there is enough memory.
        given: the settings that the user has set, which are not changed.
        sizes: what decides how much memory it takes; None if that is unknown.
        projector: bytes of its projector's file.
        adapters: bytes of its adapters' files.
        draft: what decides how much memory its draft model takes; None if it has none.
        name: its id, for messages.
        lent: what other machines lend.
        remote_layers: how many layers other machines are to get (``rpc_layers``).
    """

    load: Load
    given: frozenset[str] = frozenset()
    sizes: ModelSizes | None = None
    projector: int = 0
    adapters: int = 0
    draft: ModelSizes | None = None
    name: str = ""
    lent: tuple[Lent, ...] = ()
    remote_layers: int = AUTOMATIC

    @property
    def checked(self) -> bool:
        """Whether the memory that it takes can be compared with what is free. Nothing is known of
        the memory of GPUs."""
        return self.sizes is not None and self.load.gpu_layers == 0


@dataclass(frozen=True, slots=True)
class Fit:
    """How a model is loaded.

    Attributes:
        load: the command, with defaults lowered so that the model fits.
        estimate: the memory that it takes with full contexts; None if that is unknown.
        needs: bytes that must be free for it, also for full contexts. Less than the estimate if the
            user chose to map a file, because the system can then read the weights again when it
            needs their memory; and without the saved prefixes, if the settings leave their memory
            open.
        keeps: bytes that it holds in use once it is loaded: the system cannot drop them without
            harm.
        free: bytes that were free.
        context: tokens of the context of a slot.
        lowered: the settings whose defaults were lowered.
        borrowed: the memory of other machines that it takes.
    """

    load: Load
    estimate: Estimate | None = None
    needs: int = 0
    keeps: int = 0
    free: int = UNLIMITED
    context: int = 0
    lowered: tuple[str, ...] = ()
    borrowed: tuple[Borrowed, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether that much is free."""
        return self.needs <= self.free

    def __str__(self) -> str:
        """Return the sentence for banner and log."""
        if self.estimate is None:
            return "its memory was not estimated"
        slots = f"{self.load.parallel} slot{'s' if self.load.parallel > 1 else ''}"
        free = "" if self.free >= UNLIMITED else f", {written(self.free)} free"
        what = f"{slots} of {self.context:,} tokens" if self.context else "for inputs"
        if self.context:
            types = kv_types.written(self.load.kv_type_k, self.load.kv_type_v)
            what += f", {written(self.estimate.cache)} of cache ({types})"
        lowered = f" (lowered to fit: {', '.join(self.lowered)})" if self.lowered else ""
        others = "".join(f"; {one.layers} layers on {one.server.name}" for one in self.load.rpc)
        draft = self.load.draft_model
        drafts = "" if draft is None else f"; draft model {Path(draft).name}"
        needs = f"needs {written(self.needs)} with full contexts{free}"
        return f"{needs}; {what}{lowered}{others}{drafts}"


def choose(
    candidate: Candidate,
    free: int,
    *,
    shorten: bool = True,
    borrow: bool = True,
    repacked: Repacked | None = None,
) -> Fit | None:
    """Return how a model is loaded into ``free`` bytes; None if it does not fit.

    Args:
        candidate: the model.
        free: bytes that are free for it.
        shorten: whether the context may be shortened.
        borrow: whether other machines may be used that lend memory. They are used in any case if
            the setting ``rpc_layers`` says so.
        repacked: as for :func:`estimate`; by default those of this processor.
    """
    forced = candidate.remote_layers > 0 and bool(candidate.lent)
    if not candidate.checked:
        return _unchecked(candidate, forced, repacked)
    for longest in (False, True) if shorten else (False,):
        fit = None if forced else _choose_here(candidate, free, longest, repacked)
        if fit is None and candidate.lent and (forced or borrow) and candidate.remote_layers:
            fit = _choose_spread(candidate, free, longest, repacked)
        if fit is not None:
            return fit
    return None


def _choose_here(
    candidate: Candidate, free: int, shorten: bool, repacked: Repacked | None
) -> Fit | None:
    """Return how a model is loaded on this machine alone."""
    for load in _candidates(candidate, shorten, repacked):
        fit = measure(candidate, load, free, repacked)
        if fit.fits:
            load = _with_prefixes(load, free - fit.needs)
            return fit if load is fit.load else measure(candidate, load, free, repacked)
    return None


def _choose_spread(
    candidate: Candidate, free: int, shorten: bool, repacked: Repacked | None
) -> Fit | None:
    """Return how a model is loaded on this machine and on others that lend memory."""
    for load in _candidates(candidate, shorten, repacked):
        demand = _demand(candidate, load, repacked)
        placed = _spread(candidate, load, demand, free, repacked) if demand.layers else None
        if placed is not None:
            load = structs.replace(load, rpc=placed)
            fit = measure(candidate, load, free, repacked)
            fit = measure(candidate, _with_prefixes(load, free - fit.needs), free, repacked)
            return replace(fit, borrowed=borrowed(demand, placed))
    return None


def _demand(
    candidate: Candidate, load: Load, repacked: Repacked | None, *, flash: bool | None = None
) -> Demand:
    """Return what a layer needs on another machine. ``flash`` is as for :func:`estimate`."""
    sizes, whole = candidate.sizes, measure(candidate, load, repacked=repacked, flash=flash)
    if sizes is None or whole.estimate is None or not sizes.layers:
        return Demand(0, 0, 0)
    layers, found = len(sizes.layers), whole.estimate
    return Demand(layers, max(sizes.layers) + found.cache // layers, found.compute)


def _spread(
    candidate: Candidate, load: Load, demand: Demand, free: int, repacked: Repacked | None
) -> tuple[Placed, ...] | None:
    def fits(count: int) -> bool:
        moved = structs.replace(load, rpc=(Placed(candidate.lent[0].server, count),))
        return measure(candidate, moved, free, repacked).fits

    return spread(demand, candidate.lent, candidate.remote_layers, fits)


def _unchecked(candidate: Candidate, forced: bool, repacked: Repacked | None) -> Fit | None:
    """Return how a model is loaded of whose memory on this machine nothing is known: only if the
    setting says how many layers other machines get, they get some."""
    load = _with_prefixes(candidate.load, UNLIMITED)
    if not forced:
        return Fit(load)
    # The least that the layers can need: a user who says how many is not refused for a guess.
    demand = _demand(candidate, load, repacked, flash=True)
    placed = spread(demand, candidate.lent, candidate.remote_layers, lambda count: True)
    if placed is None:
        return None
    layers = demand.layers
    left = max(0, layers - sum(one.layers for one in placed)) if layers else load.gpu_layers
    on_gpu = left if load.gpu_layers < 0 else min(load.gpu_layers, left)
    load = structs.replace(load, rpc=placed, gpu_layers=on_gpu)
    return Fit(load, borrowed=borrowed(demand, placed))


def _with_prefixes(load: Load, left: int) -> Load:
    """Return a load command that says how much memory saved prefixes may take, if the settings
    leave that open.

    Args:
        load: the command; ``cache_ram`` is -1 if it is left open.
        left: bytes that are free next to the model.
    """
    if load.cache_ram >= 0:
        return load
    most = min(_MOST_PREFIXES, left // _PREFIXES_SHARE // MIB)
    return structs.replace(load, cache_ram=most if most >= _LEAST_PREFIXES else 0)


def measure(
    candidate: Candidate,
    load: Load,
    free: int = UNLIMITED,
    repacked: Repacked | None = None,
    *,
    flash: bool | None = None,
) -> Fit:
    """Return what a model needs if it is loaded in a certain way, whether that is free or not.

    Args:
        candidate: the model.
        load: how it is loaded.
        free: bytes that are free for it.
        repacked: as for :func:`choose`.
        flash: as for :func:`estimate`.
    """
    sizes = candidate.sizes
    if sizes is None:
        return Fit(load)
    repacked = repacked_types() if repacked is None else repacked
    found = estimate(
        sizes, load, repacked, candidate.projector, candidate.adapters, candidate.draft, flash
    )
    chosen = "use_mmap" in candidate.given and load.use_mmap and not load.use_mlock
    spare = found.prefixes if candidate.load.cache_ram < 0 else 0
    return Fit(
        load=load,
        estimate=found,
        needs=found.total - spare - (found.weights if chosen else 0),
        keeps=found.total - (found.weights if chosen else found.dropped),
        free=free,
        context=context_of(sizes, load) if sizes.generates else 0,
        lowered=tuple(_changed(candidate.load, load)),
    )


def measure_loaded(
    candidate: Candidate, fit: Fit, flash: bool, repacked: Repacked | None = None
) -> Fit:
    """Return what a model needs that is loaded, since its worker has chosen whether it has flash
    attention.

    Args:
        candidate: the model.
        fit: how it was loaded.
        flash: whether it has flash attention.
        repacked: as for :func:`choose`.
    """
    if fit.estimate is None:
        return fit
    measured = measure(candidate, fit.load, fit.free, repacked, flash=flash)
    return replace(measured, borrowed=fit.borrowed)


def refusal(candidate: Candidate, free: int, repacked: Repacked | None = None) -> str:
    """Return the message about a model that does not fit into ``free`` bytes."""
    fit = measure(candidate, _least(candidate, repacked), free, repacked)
    slots = f"{fit.load.parallel} slot{'s' if fit.load.parallel > 1 else ''}"
    size = f" for {slots} of {fit.context:,} tokens" if fit.context else ""
    told = f"it needs {written(fit.needs)}{size}, and {written(free)} of memory is free."
    lent = "; ".join(map(str, candidate.lent))
    # The name of a setting, with which some problems begin, keeps its small letter.
    others = f" {lent if lent.startswith('rpc_') else lent[0].upper() + lent[1:]}." if lent else ""
    if others and candidate.remote_layers > 0:
        return f"rpc_layers puts layers on other machines, which cannot take them.{others}"
    return f"{told}{others} {_advice(candidate, free, repacked)}"


def _advice(candidate: Candidate, free: int, repacked: Repacked | None) -> str:
    """Return a sentence with the settings that would help."""
    if candidate.draft is not None:
        load = structs.replace(candidate.load, draft_model=None)
        alone = replace(candidate, draft=None, load=load)
        if choose(alone, free, repacked=repacked) is not None:
            return "It fits without its draft model; choose a smaller one, or none."
    unbound = replace(candidate, given=frozenset())
    fit = choose(unbound, free, repacked=repacked)
    if fit is not None and fit.lowered:
        values = [_flag(name, getattr(fit.load, name)) for name in fit.lowered]
        return f"It fits with {_joined(values)}: then it needs {written(fit.needs)}."
    smaller = "Free memory, or use a smaller model or a stronger quantisation."
    least = structs.replace(_least(unbound, repacked), use_mmap=True, use_mlock=False)
    mapped = replace(candidate, given=frozenset({"use_mmap"}))
    if candidate.load.use_mlock or measure(mapped, least, free, repacked).needs > free:
        return smaller
    names = ("use_mmap", "parallel", "ctx_size")
    values = [_flag(name, getattr(least, name)) for name in names]
    return (
        f"{smaller} {_joined(values)} would load it, but the system would read its weights from "
        "the file again and again, which is slow."
    )


def _least(candidate: Candidate, repacked: Repacked | None) -> Load:
    """Return the way to load a model that needs the least memory."""
    return [*_candidates(candidate, True, repacked)][-1]


def _candidates(candidate: Candidate, shorten: bool, repacked: Repacked | None) -> Iterator[Load]:
    """Yield the ways to load a model, the best one first."""
    load, given, sizes = candidate.load, candidate.given, candidate.sizes
    yield load
    if sizes is None:
        return
    if "use_mmap" not in given and not load.use_mlock:
        mapped = measure(candidate, load, repacked=repacked)
        read = measure(candidate, structs.replace(load, use_mmap=False), repacked=repacked)
        if read.needs < mapped.needs:
            load = read.load
            yield load
    if "parallel" not in given and sizes.generates:
        for slots in range(load.parallel - 1, 0, -1):
            load = structs.replace(load, parallel=slots)
            yield load
    if shorten and "ctx_size" not in given:
        longest = context_of(sizes, load)
        step = _CONTEXT_STEP * max(1, longest // (_CONTEXT_STEP * _CONTEXTS))
        for context in range((longest - 1) // step * step, _LEAST_CONTEXT - 1, -step):
            load = structs.replace(load, ctx_size=context)
            yield load


def _changed(before: Load, after: Load) -> Iterable[str]:
    names = ("ctx_size", "parallel", "use_mmap")
    return (name for name in names if getattr(before, name) != getattr(after, name))


def _flag(name: str, value: int | bool) -> str:
    """Return how a setting is given on the command line and in the environment."""
    row = BY_NAME[name]
    if isinstance(value, bool):
        option = row.option if value else row.option.replace("--", "--no-", 1)
        return f"{option} ({row.env}={str(value).lower()})"
    return f"{row.option} {value} ({row.env}={value})"


def _joined(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
