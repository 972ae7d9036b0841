"""Concurrent reads, combined: one call answers every request that arrived before it began."""

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
    """Keys that are read together; none is added after the read has begun."""

    keys: dict[Key, None] = field(default_factory=dict)
    """Insertion-ordered set."""
    task: asyncio.Task[Mapping[Key, Value]] | None = None


class SharedReads(Generic[Key, Value]):
    """Collects keys until a thread is free to read them.

    A value is never older than the request for it: a read that has begun is not joined.
    """

    def __init__(
        self,
        read: Callable[[list[Key]], Mapping[Key, Value]],
        *,
        concurrency: int,
        max_keys: int = 1,
    ) -> None:
        """Create an empty collection.

        Args:
            read: returns the values that exist for some keys; runs in a thread.
            concurrency: reads that may run at once.
            max_keys: most keys in one read.
        """
        self._read = read
        self._max_keys = max_keys
        self._slots = asyncio.Semaphore(concurrency)
        self._open: _Batch[Key, Value] | None = None
        self._waiting: dict[Key, _Batch[Key, Value]] = {}

    async def get(self, key: Key) -> Value | None:
        """Return the current value of a key, or None; raises what the read raises."""
        return (await self._read_batch(key)).get(key)

    async def read(self, key: Key) -> Value:
        """Return the current value of a key that always has one; raises what the read raises."""
        return (await self._read_batch(key))[key]

    async def _read_batch(self, key: Key) -> Mapping[Key, Value]:
        batch = self._waiting.get(key) or self._get_open_batch()
        self._waiting[key] = batch
        batch.keys[key] = None
        if batch.task is None:
            batch.task = asyncio.create_task(self._run(batch))
            # Retrieve the exception: asyncio warns about it if every caller was cancelled.
            batch.task.add_done_callback(lambda done: done.cancelled() or done.exception())
        # A cancelled caller must not cancel the read of the others.
        return await asyncio.shield(batch.task)

    def _get_open_batch(self) -> _Batch[Key, Value]:
        if self._open is None or len(self._open.keys) >= self._max_keys:
            self._open = _Batch()
        return self._open

    async def _run(self, batch: _Batch[Key, Value]) -> Mapping[Key, Value]:
        async with self._slots:
            if self._open is batch:
                self._open = None
            for key in batch.keys:
                del self._waiting[key]
            return await to_thread.run_sync(self._read, list(batch.keys))
