"""Machines with known speeds that answer chats without a model, for ``cluster.py``.

    python simulated_machines.py ADDRESS SPEED SPEED SPEED

listens on ports of an address, prints one for each machine, and serves until its standard input
ends. Each machine has some slots. A slot generates SPEED tokens per second; a machine prefills one
prompt at a time, a hundred times as fast as a slot generates. As in a real server, a slot keeps the
tokens of its last prompt and answer, a waiting request gets the free slot with the longest common
prefix, and only the rest of its prompt is prefilled. A token is one word. All machines share one
thread, which only waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from dataclasses import dataclass, field
from typing import Any

SLOTS = 4
"""Requests that a machine generates for at the same time."""
KEPT = 24
"""Prompts with their answers that a machine keeps: in its slots and in memory."""
PREFILL = 100
"""Tokens that a machine prefills in the time in which a slot generates one."""
_BUSY = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
_READY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Machine:
    """One simulated machine.

    Args:
        speed: tokens per second that a slot generates.

    Attributes:
        kept: prompts with their answers that need not be prefilled again, the newest last.
    """

    speed: float
    kept: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(SLOTS)
        self._prefill = asyncio.Lock()

    async def answer(self, words: list[str], length: int) -> int:
        """Take the time of an answer.

        Args:
            words: the prompt.
            length: tokens of the answer.

        Returns:
            How many tokens of the prompt were kept.
        """
        async with self._slots:
            # Requests with the same beginning wait for each other, as in a real server.
            async with self._prefill:
                cached = self._take(words)
                await asyncio.sleep((len(words) - cached) / (self.speed * PREFILL))
                held = [*words]
                self.kept.append(held)
            await asyncio.sleep(length / self.speed)
            held += said(words, length)
            del self.kept[:-KEPT]
            return cached

    def _take(self, words: list[str]) -> int:
        """Find the longest kept prefix. A prompt that continues a kept one takes its place."""
        lengths = [common(words, other) for other in self.kept]
        longest = max(lengths, default=0)
        # One with as many words as a system prompt only is still wanted by other conversations.
        if longest and longest == len(self.kept[lengths.index(longest)]):
            del self.kept[lengths.index(longest)]
        return min(longest, len(words) - 1)


def common(one: list[str], other: list[str]) -> int:
    """The number of words that two texts have in common from their beginning."""
    for index, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return index
    return min(len(one), len(other))


def said(words: list[str], length: int) -> list[str]:
    """The words of an answer: the same for the same prompt."""
    return [f"a{len(words)}.{number}" for number in range(length)]


def words_of(messages: list[dict[str, str]]) -> list[str]:
    """The words of a conversation."""
    return [word for message in messages for word in message["content"].split()]


async def serve(machine: Machine, address: str) -> int:
    """Start a machine; return its port."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await _exchange(machine, reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):  # the client has left
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(connected, address, 0, limit=1 << 24)
    port: int = server.sockets[0].getsockname()[1]
    return port


async def _exchange(
    machine: Machine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"GET"):
        writer.write(_READY if head.startswith(b"GET /ready") else _BUSY)
        await writer.drain()
        return True
    lines = head.decode("latin-1").lower().split("\r\n")
    length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))
    body: dict[str, Any] = json.loads(await reader.readexactly(length))
    words, tokens = words_of(body["messages"]), body["max_tokens"]
    cached = await machine.answer(words, tokens)
    usage = {
        "prompt_tokens": len(words), "completion_tokens": tokens,
        "prompt_tokens_details": {"cached_tokens": cached},
    }  # fmt: skip
    message = {"role": "assistant", "content": " ".join(said(words, tokens))}
    content = json.dumps({"choices": [{"message": message}], "usage": usage}).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content))
    await writer.drain()
    return True


async def main() -> None:
    """Serve until standard input ends."""
    address, *speeds = sys.argv[1:]
    for speed in speeds:
        print(await serve(Machine(float(speed)), address), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
