"""Bounds what the draft model may cost. Pure: callers pass what was measured.

A draft model must first compute the prompt, and that pays only if the answer is long enough and
predictable enough, which is not known in advance. So its time is paid from an account. What drafts
gain is paid in: while they pay, even long prompts are affordable. Where they do not, the account
runs empty, and then one percent of the time of plain steps is all that the draft model can cost.
"""

from __future__ import annotations

START = 20.0
"""Balance at the start, in plain steps: enough to find out whether drafts pay."""
LARGEST = 200.0
"""Largest balance."""
LEAST = -START
"""Smallest balance: a call that takes very long by chance must not end the drafts for hours."""
SHARE = 0.01
"""Share of the time of plain steps that is paid in."""
_WEIGHT = 0.2
"""Weight of a new measurement in its running mean."""
_OUTLIER = 2.0
"""A measurement counts at most as this multiple of the mean."""
FORGOTTEN = 1000
"""Plain steps after which it is tried again whether the draft model's tokens are accepted, and
whether its calls have become faster."""


class Account:
    """What the draft model may cost, in the time of plain steps, and what it costs.

    Attributes:
        balance: plain steps.
        token: seconds for each token of a prompt; 0 until it was measured.
        call: seconds for a token of each draft.
    """

    def __init__(self) -> None:
        self.balance = START
        self.token = 0.0
        self.call = 0.0
        self._plain = 0

    def affords(self, tokens: int, step: float) -> bool:
        """Return whether so many tokens of a prompt can be paid for.

        Args:
            tokens: missing tokens.
            step: seconds of a plain step.
        """
        return self.balance > 0 and tokens * self.token <= self.balance * step

    def plain(self) -> bool:
        """Note a step without a draft of the draft model; return whether it is time to forget how
        often its tokens were accepted."""
        self.balance = min(LARGEST, self.balance + SHARE)
        self._plain += 1
        if self._plain % FORGOTTEN:
            return False
        # This is measured only while it drafts. If it is too high, it would never draft again.
        self.call /= 2
        return True

    def gain(self, steps: float) -> None:
        """Pay in, or out, what a step with drafts of the draft model has gained."""
        self._plain = 0
        self.balance = min(LARGEST, self.balance + steps)

    def pay(self, seconds: float, step: float) -> None:
        """Pay for the time of the draft model; ``step`` is that of a plain step."""
        self.balance = max(LEAST, self.balance - seconds / step)

    def learn(self, tokens: int, catching_up: float, calls: int, drafting: float) -> None:
        """Learn from the times of the draft model: for ``tokens`` of prompts, and for ``calls``
        that computed a token of each draft."""
        if tokens:
            self.token = _mean(self.token, catching_up / tokens)
        if calls:
            self.call = _mean(self.call, drafting / calls)


def _mean(old: float, new: float) -> float:
    return old + _WEIGHT * (min(new, _OUTLIER * old) - old) if old else new
