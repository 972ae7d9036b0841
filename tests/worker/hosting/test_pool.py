"""Which engine process a job gets, and when processes start and end."""

from __future__ import annotations

import threading

import pytest

from services.errors import CancelledError
from services.worker.hosting.host import EngineSource, Limits
from services.worker.hosting.pool import HostPool
from tests.conftest import wait_until
from tests.worker.hosting.conftest import SETTINGS

LIMITS = Limits(stall=30.0, deadline=60.0)


@pytest.fixture
def make_pool(caller):
    def make(size=2, idle_seconds=60.0, **seats):
        return HostPool(size, EngineSource("a:b", SETTINGS), LIMITS, idle_seconds, seats)

    return make


def test_no_process_is_started_before_a_job_needs_it(make_pool, caller):
    pool = make_pool()
    assert pool.count_models() == {}
    assert caller.peers == []
    with pool.lease("tone"):
        assert pool.count_models() == {"tone": 1}


def test_a_free_process_is_reused_and_a_busy_one_is_not(make_pool):
    pool = make_pool()
    with pool.lease("tone") as first, pool.lease("tone") as second:
        assert first is not second
    with pool.lease("tone") as again:
        assert again in {first, second}
    assert pool.count_models() == {"tone": 2}


def test_the_process_that_was_idle_longest_is_replaced_by_another_engine(make_pool):
    pool = make_pool()
    with pool.lease("a") as oldest:
        pass
    with pool.lease("b") as kept:
        pass
    with pool.lease("c"):
        assert not oldest.alive
        assert kept.alive
        assert pool.count_models() == {"b": 1, "c": 1}


def test_a_job_that_fails_gives_its_process_back(make_pool):
    pool = make_pool(choir=2)
    with pytest.raises(ZeroDivisionError), pool.lease("choir"):
        raise ZeroDivisionError
    assert pool.free_seats("choir") == 2


@pytest.mark.parametrize(("size", "seats"), [(1, 1), (2, 2), (5, 3)])
def test_an_engine_has_at_most_as_many_seats_as_the_worker_has_slots(make_pool, size, seats):
    assert make_pool(size, choir=3).free_seats("choir") == seats


def test_an_engine_without_seats_of_its_own_may_have_a_process_for_each_slot(make_pool):
    pool = make_pool(3)
    with pool.lease("tone"):
        assert pool.free_seats("tone") == 3


def test_a_process_is_unloaded_only_when_it_was_idle_long_enough(make_pool):
    pool = make_pool()
    with pool.lease("tone"):
        pass
    assert pool.unload_idle() == 0
    pool._idle_seconds = -1.0
    with pool.lease("tone") as busy:
        assert pool.unload_idle() == 0
        assert busy.alive
    assert pool.unload_idle() == 1
    assert pool.count_models() == {}


def test_a_retired_process_is_unloaded_at_once(make_pool):
    pool = make_pool(2, choir=2)
    with pool.lease("choir") as host:
        pass
    host._retired = True
    assert pool.unload_idle() == 1
    assert not host.alive


def test_a_retired_process_takes_no_new_job(make_pool):
    pool = make_pool()
    with pool.lease("tone") as host:
        host._retired = True
    with pool.lease("tone") as another:
        assert another is not host


def test_all_processes_are_killed_with_their_jobs(make_pool, caller):
    pool = make_pool()
    with pool.lease("a") as busy:
        with pool.lease("b") as idle:
            pass
        pool.kill_all()
        assert not busy.alive
        assert not idle.alive
    assert pool.count_models() == {}


def test_an_abandoned_order_keeps_its_seat(make_pool):
    pool = make_pool(2, choir=2)
    with pool.lease("choir") as host:
        host._abandoned[1] = float("inf")
    assert pool.free_seats("choir") == 1
    with pool.lease("choir"), pytest.raises(CancelledError), pool.lease("choir", lambda: True):
        pass


def test_a_waiting_job_gets_the_seat_that_becomes_free(make_pool, caller):
    pool = make_pool(2, choir=2)
    release = threading.Event()

    def use() -> None:
        with pool.lease("choir"):
            release.wait()

    with pool.lease("choir") as host:
        holder = caller.threads.submit(use)
        wait_until(lambda: pool.free_seats("choir") == 0)
        waiter = caller.threads.submit(use)
        wait_until(lambda: pool.free_seats("choir") == -1)
    wait_until(lambda: pool._leases[host] == 2)
    release.set()
    holder.result()
    waiter.result()


def test_a_cancelled_wait_no_longer_counts(make_pool):
    pool = make_pool(1, choir=1, other=1)
    pool._seats = {"choir": 2}
    with pool.lease("choir", alone=True):
        for alone in (False, True):
            with pytest.raises(CancelledError), pool.lease("choir", lambda: True, alone=alone):
                pass
    assert pool.free_seats("choir") == 2
    with pool.lease("choir"), pool.lease("choir"):
        assert pool.free_seats("choir") == 0
