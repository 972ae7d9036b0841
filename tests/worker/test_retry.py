"""When a failed job is retried."""

from hypothesis import given
from hypothesis import strategies as st

from services.worker.retry import has_crashed_too_often, retry_delay


def test_delays_double_until_the_retries_are_used_up():
    delays = [retry_delay(attempts, max_retries=3, first_delay=1.0) for attempts in (1, 2, 3, 4)]
    assert delays == [1.0, 2.0, 4.0, None]


@given(st.integers(0, 10), st.floats(0, 3600))
def test_a_job_is_tried_as_often_as_the_setting_says(retries, first):
    attempts = 1
    while retry_delay(attempts, max_retries=retries, first_delay=first) is not None:
        attempts += 1
    assert attempts == 1 + retries


def test_the_third_crash_is_one_too_many():
    assert [has_crashed_too_often(crashes) for crashes in (1, 2, 3)] == [False, False, True]
