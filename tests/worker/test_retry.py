"""When a job is tried again."""

from hypothesis import given
from hypothesis import strategies as st

from services.worker.retry import (
    LONGEST_CRASH_PAUSE_SECONDS,
    OUTAGES_ALLOWED,
    crash_pause,
    outage_pause,
    retry_delay,
)


def test_delays_double_until_the_retries_are_used_up():
    delays = [retry_delay(attempts, max_retries=3, first_delay=1.0) for attempts in (1, 2, 3, 4)]
    assert delays == [1.0, 2.0, 4.0, None]


@given(st.integers(0, 10), st.floats(0, 3600))
def test_a_job_is_tried_as_often_as_the_setting_says(retries, first):
    attempts = 1
    while retry_delay(attempts, max_retries=retries, first_delay=first) is not None:
        attempts += 1
    assert attempts == 1 + retries


@given(st.integers(1, 10**6))
def test_pauses_after_crashes_grow_to_a_limit_and_never_end_the_job(crashes):
    assert crash_pause(1) == 0.0
    assert crash_pause(crashes) <= crash_pause(crashes + 1) <= LONGEST_CRASH_PAUSE_SECONDS
    assert [crash_pause(each) for each in (2, 3, 4)] == [2.0, 4.0, 8.0]


def test_pauses_after_outages_grow_until_the_faults_count():
    pauses = [outage_pause(outages) for outages in range(1, OUTAGES_ALLOWED + 2)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0, 30.0, None]
