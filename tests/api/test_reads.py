"""Reads that are shared: each question once, and never an answer older than its question."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.reads import SharedReads


class Rows:
    """Values that change, and a read that can be held up."""

    def __init__(self) -> None:
        self.values = {"a": 0, "b": 0}
        self.reads: list[list[str]] = []
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def read(self, keys: list[str]) -> dict[str, int]:
        self.reads.append(keys)
        seen = dict(self.values)
        self.begun.release()
        assert self.go.acquire(timeout=10)
        return {key: seen[key] for key in keys if key in seen}


async def begun(rows: Rows) -> None:
    assert await asyncio.to_thread(rows.begun.acquire, timeout=10)


async def asked(shared: SharedReads[str, int], *keys: str) -> list[asyncio.Task[int | None]]:
    tasks = [asyncio.create_task(shared.get(key)) for key in keys]
    await asyncio.sleep(0)
    return tasks


def test_what_is_asked_for_while_a_read_is_under_way_is_read_together_after_it() -> None:
    async def run() -> None:
        rows = Rows()
        shared = SharedReads(rows.read, lanes=1, most=3)
        first = await asked(shared, "a")
        await begun(rows)
        rows.values["a"] = 1
        later = await asked(shared, "a", "b", "a", "none", "a", "c")
        rows.go.release(3)
        assert await asyncio.gather(*first) == [0]
        assert await asyncio.gather(*later) == [1, 0, 1, None, 1, None]
        assert rows.reads == [["a"], ["a", "b", "none"], ["c"]]

    asyncio.run(run())


def test_as_many_reads_as_there_are_lanes_are_under_way() -> None:
    async def run() -> None:
        rows = Rows()
        shared = SharedReads(rows.read, lanes=2)
        tasks = await asked(shared, "a", "b", "c")
        await begun(rows)
        await begun(rows)
        assert sorted(rows.reads) == [["a"], ["b"]]
        rows.go.release(3)
        assert await asyncio.gather(*tasks) == [0, 0, None]

    asyncio.run(run())


def test_who_leaves_takes_the_answer_from_nobody() -> None:
    async def run() -> None:
        rows = Rows()
        shared = SharedReads(rows.read, lanes=1)
        leaving, staying = await asked(shared, "a", "a")
        await begun(rows)
        leaving.cancel()
        rows.go.release()
        assert await staying == 0
        assert rows.reads == [["a"]]

    asyncio.run(run())


def test_a_read_that_fails_fails_for_all_who_asked_and_for_nobody_later() -> None:
    failures = [OSError("away")]

    def read(keys: list[str]) -> dict[str, int]:
        if failures:
            raise failures.pop()
        return dict.fromkeys(keys, 7)

    async def run() -> None:
        shared = SharedReads(read, lanes=1)
        tasks = await asked(shared, "a", "a")
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
def test_every_answer_is_at_least_as_new_as_its_question(
    waves: list[list[str]], lanes: int, most: int
) -> None:
    moment = 0

    def now() -> int:
        nonlocal moment
        moment += 1
        return moment

    def read(keys: list[str]) -> dict[str, int]:
        assert len(keys) <= most
        return dict.fromkeys(keys, now())

    async def ask(shared: SharedReads[str, int], key: str, clock: Callable[[], int]) -> None:
        asked_at = clock()
        assert await shared.read(key) > asked_at

    async def run() -> None:
        shared = SharedReads(read, lanes=lanes, most=most)
        tasks = []
        for wave in waves:
            tasks += [asyncio.create_task(ask(shared, key, now)) for key in wave]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    asyncio.run(run())
