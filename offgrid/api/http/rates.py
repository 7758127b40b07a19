"""What callers have used lately of their requests and tokens per minute.

Each amount per minute is a bucket: a caller may use the whole amount at once, and it comes back
evenly, a sixtieth in each second. OpenAI's limits work in the same way, and its headers describe a
bucket: what is left of it, and when it is full again. A bucket is two numbers, whatever the limit
is, so the memory of a caller does not grow with its requests.

Times are those of a monotonic clock: if the system's clock is set, nothing changes here. For this
reason, and because it keeps every caller for ever, the library ``limits`` is not used: its storage
in memory reads ``time.time()`` (version 5.8).
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

HEADERS = (
    "x-ratelimit-limit-requests", "x-ratelimit-limit-tokens", "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens", "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens",
)  # fmt: skip
"""Headers of a response to a caller with limits."""
MAX_CALLERS = 10_000
"""Callers whose usage is remembered. Those that have not asked for the longest time are forgotten
first; by then most buckets are full anyway."""
_MINUTE = 60.0
_ROUNDING = 1e-6
"""Parts of a request or token that rounding may take away."""


class Bucket:
    """What one caller has used of an amount per minute. The amount may differ in each call, because
    the settings may change. Not thread-safe."""

    __slots__ = ("_at", "_used")

    def __init__(self) -> None:
        self._used = 0.0
        self._at = 0.0

    def used(self, limit: int, now: float) -> float:
        """Return what has been used and has not come back yet; more than ``limit`` if it is owed.

        Args:
            limit: the amount per minute, at least 1.
            now: seconds of a monotonic clock.
        """
        self._used = max(0.0, self._used - max(0.0, now - self._at) * limit / _MINUTE)
        self._at = now
        return self._used

    def left(self, limit: int, now: float) -> int:
        """Return the whole requests or tokens that are left."""
        return max(0, int(limit - self.used(limit, now) + _ROUNDING))

    def take(self, amount: int, limit: int, now: float) -> None:
        """Use an amount, also one that is not left: then it is owed."""
        self._used = self.used(limit, now) + amount

    def wait(self, amount: int, limit: int, now: float) -> float:
        """Return the seconds until ``amount`` is left; 0 if it is."""
        missing = self.used(limit, now) + amount - limit
        return 0.0 if missing <= _ROUNDING else missing * _MINUTE / limit

    def reset(self, limit: int, now: float) -> float:
        """Return the seconds until all of it is left again."""
        return self.used(limit, now) * _MINUTE / limit


class Account:
    """The usage of one caller.

    Attributes:
        requests: of its requests per minute.
        tokens: of its tokens per minute.
        running: its requests that have not ended.
        refused: its requests that were refused since one was admitted.
    """

    __slots__ = ("refused", "requests", "running", "tokens")

    def __init__(self) -> None:
        self.requests = Bucket()
        self.tokens = Bucket()
        self.running = 0
        self.refused = 0


class _Lock:
    """The lock of the accounts. To enter it makes the changes that were to be made later."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._later: deque[Callable[[], None]] = deque()  # append and popleft are atomic

    def __enter__(self) -> None:
        self._lock.acquire()
        self._catch_up()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def later(self, change: Callable[[], None]) -> None:
        """Make a change now, or before the lock is entered the next time. Never waits.

        The garbage collector may end a stream at any line of any thread, also while the thread
        holds the lock.
        """
        self._later.append(change)
        if self._lock.acquire(blocking=False):
            try:
                self._catch_up()
            finally:
                self._lock.release()

    def _catch_up(self) -> None:
        while self._later:
            self._later.popleft()()


class Accounts:
    """The accounts of the latest callers. All use of an account is made with :attr:`lock` held.

    Args:
        most: how many accounts are kept. Those with running requests are kept in any case; the
            gate limits their number.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self, most: int = MAX_CALLERS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.lock = _Lock()
        self.clock = clock
        self._most = most
        self._accounts: OrderedDict[str, Account] = OrderedDict()

    def __len__(self) -> int:
        return len(self._accounts)

    def of(self, caller: str) -> Account:
        """Return the account of a caller, by its id."""
        account = self._accounts.get(caller)
        if account is None:
            account = self._accounts[caller] = Account()
            self._forget_one()
        else:
            self._accounts.move_to_end(caller)
        return account

    def _forget_one(self) -> None:
        """Forget the idle caller that has not asked for the longest time, if there are too many."""
        # The newest account is the last one, and stays.
        for _ in range(len(self._accounts) - 1 if len(self._accounts) > self._most else 0):
            caller, account = self._accounts.popitem(last=False)
            if not account.running:
                return
            self._accounts[caller] = account


def shown(seconds: float) -> str:
    """Return a time as OpenAI's headers write it, rounded up: ``120ms``, ``1.5s``, ``6m0s``."""
    milliseconds = int(-(-seconds * 1000 // 1))
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if minutes:
        hours, minutes = divmod(minutes, 60)
        text = f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"
    return text
