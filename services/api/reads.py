"""Reads that many ask for at once, made together: what one costs serves all who came before it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from anyio import to_thread

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(slots=True, eq=False)
class _Batch(Generic[Key, Value]):
    """Keys that will be read together; none is added once that has begun."""

    keys: dict[Key, None] = field(default_factory=dict)
    found: asyncio.Task[Mapping[Key, Value]] | None = None


class SharedReads(Generic[Key, Value]):
    """Gathers what is asked for until a thread is free to read it.

    Nobody gets anything older than the question: what is being read already is not joined.
    """

    def __init__(
        self, read: Callable[[list[Key]], Mapping[Key, Value]], *, lanes: int, most: int = 1
    ) -> None:
        """Say how it is read.

        Args:
            read: gives what there is under each key; runs in a thread.
            lanes: how many reads may be under way at once.
            most: keys a read.
        """
        self._read = read
        self._most = most
        self._lanes = asyncio.Semaphore(lanes)
        self._open: _Batch[Key, Value] | None = None
        self._waiting: dict[Key, _Batch[Key, Value]] = {}

    async def get(self, key: Key) -> Value | None:
        """Give what is under the key now, None where nothing is; raises as the read does."""
        return (await self._found(key)).get(key)

    async def read(self, key: Key) -> Value:
        """As `get`, where there is something under every key."""
        return (await self._found(key))[key]

    async def _found(self, key: Key) -> Mapping[Key, Value]:
        batch = self._waiting.get(key) or self._gathering()
        self._waiting[key] = batch
        batch.keys[key] = None
        if batch.found is None:
            batch.found = asyncio.create_task(self._run(batch))
            # Where everybody who asked has left, nobody hears what became of it.
            batch.found.add_done_callback(lambda done: done.cancelled() or done.exception())
        # Who leaves takes the answer from nobody else.
        return await asyncio.shield(batch.found)

    def _gathering(self) -> _Batch[Key, Value]:
        if self._open is None or len(self._open.keys) >= self._most:
            self._open = _Batch()
        return self._open

    async def _run(self, batch: _Batch[Key, Value]) -> Mapping[Key, Value]:
        async with self._lanes:
            if self._open is batch:
                self._open = None
            for key in batch.keys:
                del self._waiting[key]
            return await to_thread.run_sync(self._read, list(batch.keys))
