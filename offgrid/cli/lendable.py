"""How much memory this machine can lend: that of its graphics cards, or else its main memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from offgrid.engine.memory import Bound, free_memory
from offgrid.rpc.messages import BEAT, Device

_FRESH = 2.0
"""Seconds for which a measurement is used."""

Working = Callable[[], None]
Measure = Callable[[Working], tuple[Device, ...]]


class Lendable:
    """The devices that are lent, with their free memory. Thread-safe.

    The memory of a graphics card is measured by a process that ends at once: llama.cpp keeps a part
    of a card's memory for as long as a process has looked at it.

    Args:
        devices: as a process has described them just now.
        measure: lets another process describe them. It calls the given function now and then.
        main_memory: bytes of main memory that may be used.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        devices: tuple[Device, ...],
        measure: Measure,
        main_memory: Callable[[], int] = free_memory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._latest = devices
        self._measure = measure
        self._main_memory = main_memory
        self._clock = clock
        self._lock = threading.Lock()
        self._measured = clock()

    @property
    def free(self) -> int:
        """Bytes that can be lent, as of the last measurement. Does not wait."""
        return self.of(self._latest)

    def devices(self, working: Working) -> tuple[Device, ...]:
        """Return the devices as they are now.

        Args:
            working: called now and then if this takes seconds. It may raise an error, which ends
                this.

        Raises:
            RpcError: they cannot be measured.
        """
        if not any(device.own for device in self._latest):
            return self._latest
        while not self._lock.acquire(timeout=BEAT):
            working()
        try:
            if self._clock() - self._measured >= _FRESH:
                self._latest = self._measure(working)
                self._measured = self._clock()
            return self._latest
        finally:
            self._lock.release()

    def of(self, devices: Sequence[Device]) -> int:
        """Return how many bytes of these devices can be lent. A part of each card stays free: a
        borrower reckons with what one device needs to compute, and each of several needs it."""
        own = (
            max(0, device.free - Bound(device.total, device.free).reserve)
            for device in devices
            if device.own
        )
        # The processor says that all main memory is free, and an integrated GPU knows no limit.
        main = sum(device.free for device in devices if not device.own)
        return sum(own) + min(main, self._main_memory())
