"""Clients share the workers fairly; jobs of one client start in order."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.storage.queue_order import (
    CLASS_SPAN,
    HIGHEST_RANK,
    TIES,
    Priority,
    compute_place,
    compute_rank,
)

DBOS_LARGEST = 2**31 - 1


@dataclass
class Job:
    number: int
    client: str
    rank: int
    place: int
    sent: int
    started: int | None = None


@dataclass
class Queue:
    """A simulated queue of one class, with the ranks and places of the storage."""

    slots: int
    time: int = 0
    waiting: list[Job] = field(default_factory=list)
    working: list[Job] = field(default_factory=list)
    all: list[Job] = field(default_factory=list)

    def submit(self, client: str) -> Job:
        unfinished = self.waiting + self.working
        rank = compute_rank(
            max((job.rank for job in unfinished if job.client == client), default=None),
            max((job.rank for job in self.working), default=None),
            min((job.rank for job in self.waiting), default=None),
        )
        last = max((job.place for job in unfinished if job.rank == rank), default=None)
        place = compute_place(Priority.NORMAL, rank, last)
        self.time += 1
        job = Job(len(self.all), client, rank, place, self.time)
        self.waiting.append(job)
        self.all.append(job)
        self.fill()
        return job

    def fill(self) -> None:
        while self.waiting and len(self.working) < self.slots:
            job = min(self.waiting, key=lambda job: job.place)
            self.waiting.remove(job)
            self.working.append(job)
            self.time += 1
            job.started = self.time

    def finish(self, which: int) -> None:
        if self.working:
            self.working.pop(which % len(self.working))
            self.fill()


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from("aaabcd")),
        st.tuples(st.just("finish"), st.integers(0, 3)),
    ),
    max_size=120,
)


def play(events: list[tuple[str, object]], slots: int) -> Queue:
    queue = Queue(slots)
    for kind, what in events:
        if kind == "submit":
            queue.submit(str(what))
        else:
            queue.finish(int(str(what)))
    while queue.working:
        queue.finish(0)
    return queue


@given(EVENTS, st.integers(1, 3))
def test_every_job_starts_and_a_client_s_jobs_start_in_order(events, slots):
    queue = play(events, slots)
    assert all(job.started is not None for job in queue.all)
    for client in "abcd":
        starts = [job.started for job in queue.all if job.client == client]
        assert starts == sorted(starts)


def check_shares(events: list[tuple[str, object]], slots: int) -> None:
    """While a client's next job waits, each other client starts at most two jobs, plus one for
    each slot after the first."""
    queue = play(events, slots)
    for job in queue.all:
        before = [
            other.started
            for other in queue.all
            if other.client == job.client and other.number < job.number
        ]
        waits_from = max([job.sent, *before])
        for client in set("abcd") - {job.client}:
            overtaking = [
                other
                for other in queue.all
                if other.client == client and waits_from < other.started < job.started
            ]
            assert len(overtaking) <= 2 + (slots - 1)


@given(EVENTS, st.integers(1, 3))
def test_no_client_waits_for_more_than_the_others_share(events, slots):
    check_shares(events, slots)


@pytest.mark.nightly
@settings(max_examples=2_000)
@given(EVENTS, st.integers(1, 3))
def test_no_client_waits_for_more_than_the_others_share_in_thousands_of_queues(events, slots):
    check_shares(events, slots)


def test_sixty_jobs_of_one_client_delay_another_by_one():
    queue = Queue(slots=1)
    for _ in range(60):
        queue.submit("many")
    queue.submit("one")
    for _ in range(2):
        queue.finish(0)
    assert queue.all[60].started is not None
    assert sum(job.started is not None for job in queue.all) == 3


def test_three_alternating_clients_do_not_starve_a_fourth():
    """Three clients submit a job whenever one of theirs ends, so one of them always waits."""
    queue = Queue(slots=1)
    for client in "abdcc":
        queue.submit(client)
    last = queue.all[-1]
    for turn in range(30):
        queue.finish(0)
        queue.submit("abd"[turn % 3])
        if last.started is not None:
            break
    assert last.started is not None
    assert sum(job.started is not None for job in queue.all) <= 6


def test_ranks_restart_when_the_queue_is_empty():
    queue = Queue(slots=1)
    for _ in range(5):
        queue.submit("a")
    while queue.working:
        queue.finish(0)
    assert queue.submit("a").rank == 1


@given(
    st.sampled_from(Priority), st.integers(1, HIGHEST_RANK), st.none() | st.integers(0, TIES * 2)
)
def test_places_stay_in_their_class_and_in_the_range_of_dbos(priority, rank, ties):
    first = priority.order * CLASS_SPAN + rank * TIES
    place = compute_place(priority, rank, None if ties is None else first + ties)
    assert 1 <= place <= DBOS_LARGEST
    assert priority.order * CLASS_SPAN <= place < (priority.order + 1) * CLASS_SPAN
    if rank < HIGHEST_RANK:
        assert first <= place < first + TIES


def test_queue_at_the_highest_rank_keeps_the_order_of_submission():
    rank = compute_rank(HIGHEST_RANK, HIGHEST_RANK, HIGHEST_RANK)
    assert rank == HIGHEST_RANK
    first = compute_place(Priority.LOW, rank, None)
    assert compute_place(Priority.LOW, rank, first) == first + 1
