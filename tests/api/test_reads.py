"""Shared reads: each key is read once, and never before it was requested."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.reads import SharedReads
from tests.conftest import LIMIT_SECONDS


class Rows:
    """Values that change, and a read that can be blocked."""

    def __init__(self) -> None:
        self.values = {"a": 0, "b": 0}
        self.reads: list[list[str]] = []
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def read(self, keys: list[str]) -> dict[str, int]:
        self.reads.append(keys)
        seen = dict(self.values)
        self.begun.release()
        assert self.go.acquire(timeout=LIMIT_SECONDS)
        return {key: seen[key] for key in keys if key in seen}


async def wait_until_read_begins(rows: Rows) -> None:
    assert await asyncio.to_thread(rows.begun.acquire, timeout=LIMIT_SECONDS)


async def request(shared: SharedReads[str, int], *keys: str) -> list[asyncio.Task[int | None]]:
    tasks = [asyncio.create_task(shared.get(key)) for key in keys]
    await asyncio.sleep(0)
    return tasks


def test_keys_requested_during_a_read_are_read_together_after_it() -> None:
    async def run() -> None:
        rows = Rows()
        shared = SharedReads(rows.read, concurrency=1, max_keys=3)
        first = await request(shared, "a")
        await wait_until_read_begins(rows)
        rows.values["a"] = 1
        later = await request(shared, "a", "b", "a", "none", "a", "c")
        rows.go.release(3)
        assert await asyncio.gather(*first) == [0]
        assert await asyncio.gather(*later) == [1, 0, 1, None, 1, None]
        assert rows.reads == [["a"], ["a", "b", "none"], ["c"]]

    asyncio.run(run())


def test_reads_run_up_to_the_concurrency() -> None:
    async def run() -> None:
        rows = Rows()
        shared = SharedReads(rows.read, concurrency=2)
        tasks = await request(shared, "a", "b", "c")
        await wait_until_read_begins(rows)
        await wait_until_read_begins(rows)
        assert sorted(rows.reads) == [["a"], ["b"]]
        rows.go.release(3)
        assert await asyncio.gather(*tasks) == [0, 0, None]

    asyncio.run(run())


def test_cancelled_caller_does_not_cancel_the_read() -> None:
    async def run() -> None:
        rows = Rows()
        shared = SharedReads(rows.read, concurrency=1)
        leaving, staying = await request(shared, "a", "a")
        await wait_until_read_begins(rows)
        leaving.cancel()
        rows.go.release()
        assert await staying == 0
        assert rows.reads == [["a"]]

    asyncio.run(run())


def test_failed_read_fails_only_for_its_own_callers() -> None:
    failures = [OSError("away")]

    def read(keys: list[str]) -> dict[str, int]:
        if failures:
            raise failures.pop()
        return dict.fromkeys(keys, 7)

    async def run() -> None:
        shared = SharedReads(read, concurrency=1)
        tasks = await request(shared, "a", "a")
        for task in tasks:
            with pytest.raises(OSError, match="away"):
                await task
        assert await shared.read("a") == 7

    asyncio.run(run())


@given(
    st.lists(st.lists(st.sampled_from("abcd"), max_size=6), max_size=6),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_value_is_never_older_than_its_request(
    waves: list[list[str]], concurrency: int, max_keys: int
) -> None:
    moment = 0

    def now() -> int:
        nonlocal moment
        moment += 1
        return moment

    def read(keys: list[str]) -> dict[str, int]:
        assert len(keys) <= max_keys
        return dict.fromkeys(keys, now())

    async def ask(shared: SharedReads[str, int], key: str, clock: Callable[[], int]) -> None:
        asked_at = clock()
        assert await shared.read(key) > asked_at

    async def run() -> None:
        shared = SharedReads(read, concurrency=concurrency, max_keys=max_keys)
        tasks = []
        for wave in waves:
            tasks += [asyncio.create_task(ask(shared, key, now)) for key in wave]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    asyncio.run(run())
