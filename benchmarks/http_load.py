"""Many HTTP clients in one process, fast enough not to be the bottleneck."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

Latencies = list[float]


@dataclass
class Answers:
    """Answers to a load."""

    seconds: dict[str, Latencies] = field(default_factory=dict)
    """By name of the request."""
    statuses: Counter[str] = field(default_factory=Counter)
    """By status code; `refused` and `broken` for connections without an answer."""
    took: float = 0.0

    @property
    def all_seconds(self) -> Latencies:
        """Of every request."""
        return sorted(one for some in self.seconds.values() for one in some)


@dataclass(frozen=True)
class Ask:
    """A request to send again and again."""

    name: str
    path: str
    method: str = "GET"
    body: bytes = b""

    @property
    def raw(self) -> bytes:
        """Return the bytes sent over the connection."""
        head = f"{self.method} /api/v1{self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        if self.body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(self.body)}\r\n"
        return head.encode() + b"\r\n" + self.body


class Connection(asyncio.Protocol):
    """One keep-alive connection; answers have a Content-Length."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self._buffer = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note where to write."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Complete the waiting request once its answer is whole."""
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found or self._answer is None:
            return
        _, _, length = head.lower().partition(b"content-length:")
        size = int(length.split(b"\r\n", 1)[0] or 0)
        if len(rest) >= size and not self._answer.done():
            self._buffer = b""
            self._answer.set_result((int(head[9:12]), rest))

    def connection_lost(self, _error: Exception | None) -> None:
        """Tell who waits."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError())

    async def ask(self, raw: bytes) -> tuple[int, bytes]:
        """Send a request and wait for its status and body."""
        if self.transport.is_closing():
            raise ConnectionResetError
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(raw)
        return await self._answer


def let_many_files_be_open() -> None:
    """Raise the limit on open files: each connection is one, and the default is 1,024."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def load(
    port: int,
    asks: Sequence[Ask],
    *,
    clients: int,
    seconds: float,
    every: float | None,
) -> Answers:
    """Run clients concurrently, each sending the requests in turn.

    Args:
        port: of the server on this machine.
        asks: the requests; each client begins at another.
        clients: connections, kept open.
        seconds: how long.
        every: seconds between the questions of a client. An answer's time counts from the moment
            at which its question was due, not from when it was sent. None: no pause.
    """
    answers = Answers({ask.name: [] for ask in asks})
    loop = asyncio.get_running_loop()
    begin = loop.time() + 0.2 + clients / 2000

    async def client(number: int) -> None:
        connection = await _connect(port, answers)
        turn = 0
        phase = (every or 0.0) * number / clients
        await asyncio.sleep(max(0.0, begin + phase - loop.time()))
        while (now := loop.time()) < begin + seconds:
            ask = asks[(number + turn) % len(asks)]
            due = now if every is None else begin + phase + turn * every
            if due >= begin + seconds:
                break
            if due > now:
                await asyncio.sleep(due - now)
            turn += 1
            if connection is None:
                await asyncio.sleep(0.05)
                connection = await _connect(port, answers)
                continue
            try:
                status, _ = await connection.ask(ask.raw)
            except ConnectionError:
                answers.statuses["broken"] += 1
                connection = await _connect(port, answers)
                continue
            answers.statuses[str(status)] += 1
            answers.seconds[ask.name].append(loop.time() - due)
        if connection is not None:
            connection.transport.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    answers.took = loop.time() - begin
    return answers


async def _connect(port: int, answers: Answers) -> Connection | None:
    try:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
    except OSError:
        answers.statuses["refused"] += 1
        return None
    return connection


async def burst(port: int, ask: Ask, *, count: int, clients: int) -> tuple[Answers, list[bytes]]:
    """Send one request many times as fast as possible; return the accepted bodies."""
    answers = Answers({ask.name: []})
    bodies: list[bytes] = []
    left = count
    began = time.monotonic()

    async def client() -> None:
        nonlocal left
        connection = await _connect(port, answers)
        while left > 0 and connection is not None:
            left -= 1
            sent = time.monotonic()
            status, body = await connection.ask(ask.raw)
            answers.statuses[str(status)] += 1
            answers.seconds[ask.name].append(time.monotonic() - sent)
            if status == 202:
                bodies.append(body)
        if connection is not None:
            connection.transport.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    answers.took = time.monotonic() - began
    return answers, bodies


class Listener(asyncio.Protocol):
    """An event stream whose events are counted and discarded."""

    events = 0
    """Of all listeners."""
    lost = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream of all jobs."""
        self._tail = b""
        cast("asyncio.Transport", transport).write(
            b"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        )

    def data_received(self, data: bytes) -> None:
        """Count the events; a name may be cut in two."""
        text = self._tail + data
        Listener.events += text.count(b"\nevent: ")
        self._tail = text[-7:]

    def connection_lost(self, _error: Exception | None) -> None:
        """Count it."""
        Listener.lost += 1


@contextlib.asynccontextmanager
async def listeners(port: int, count: int):
    """Keep a number of streams open while the block runs."""
    loop = asyncio.get_running_loop()
    transports = []
    Listener.events = Listener.lost = 0
    for start in range(0, count, 50):
        batch = (
            loop.create_connection(Listener, "127.0.0.1", port)
            for _ in range(min(50, count - start))
        )
        transports += [transport for transport, _ in await asyncio.gather(*batch)]
    try:
        yield
    finally:
        for transport in transports:
            transport.close()
