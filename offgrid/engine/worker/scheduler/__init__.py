"""Which sequence runs, where, and what the next decode call computes. Pure: no llama.cpp, no clock.

:mod:`~offgrid.engine.worker.scheduler.queue` decides which waiting sequence gets the next slot,
:mod:`~offgrid.engine.worker.scheduler.slots` chooses the slot and the prefix after which the
sequence begins, and :mod:`~offgrid.engine.worker.scheduler.plan` chooses the tokens of each step.
"""
