"""Saved prefixes: what slots held, copied to memory and to disk, to be used again later.

:mod:`~offgrid.engine.worker.cache.index` finds the longest saved prefix of a prompt (pure).
:mod:`~offgrid.engine.worker.cache.files` is the disk tier.
:mod:`~offgrid.engine.worker.cache.tiers` moves prefixes between memory and disk, on its own
threads. :mod:`~offgrid.engine.worker.cache.keeper` connects the tiers with the slots.
:mod:`~offgrid.engine.worker.cache.worth` decides whether a copy is cheaper than computing again
(pure). ``docs/engine.md`` describes the whole under "Cache tiers".
"""
