"""A server with a worker inside, killed before and after each commit of a submission and a job."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import pytest

from services import storage
from services.jobs import failpoints

if TYPE_CHECKING:
    from tests.api.conftest import Served

pytestmark = pytest.mark.integration

KEY = {"Idempotency-Key": "the-same-every-time"}
ON_BOTH = ("submit-before-commit", "submit-after-commit", "publish-before-commit")
POINTS = (
    *(("sqlite_url", point) for point in ON_BOTH),
    *(
        pytest.param("postgres_url", point, marks=[pytest.mark.postgres, pytest.mark.nightly])
        for point in ON_BOTH
    ),
    ("sqlite_url", "publish-after-rename"),
    ("sqlite_url", "publish-after-commit"),
    pytest.param("postgres_url", "publish-after-commit", marks=pytest.mark.postgres),
)


def post(served: Served, batch: bool) -> list[str]:
    """Submit with the same idempotency key each time; return the job ids."""
    one = {"prompt": "sleep 0", "duration": 1}
    path, body = ("/generate/batch", {"requests": [one] * 3}) if batch else ("/generate", one)
    answer = served.client.post(path, json=body, headers=KEY)
    assert answer.status_code in {200, 202}, answer.text
    given: dict[str, Any] = answer.json()
    return list(given["job_ids"]) if batch else [given["job_id"]]


@pytest.mark.parametrize(("url", "point"), POINTS)
def test_client_that_repeats_its_request_gets_each_job_once(
    request: pytest.FixtureRequest, serve: Callable[..., Served], url: str, point: str
) -> None:
    api_url = request.getfixturevalue(url)
    is_submission = point.startswith("submit")
    served = serve(api_url, **{failpoints.VARIABLE.removeprefix("DGX_MUSIC_").lower(): point})
    if is_submission:
        with pytest.raises(httpx.TransportError):
            post(served, batch=True)
    else:
        post(served, batch=False)
    assert served.rig.ended(served.process) == failpoints.EXIT_CODE
    kept = [job.job_id for job in served.rig.service.history().jobs]
    expected = {"submit-before-commit": 0, "submit-after-commit": 3}
    assert len(kept) == expected.get(point, 1)

    again = serve(api_url)
    ids = post(again, batch=is_submission)
    assert set(kept) <= set(ids)
    assert post(again, batch=is_submission) == ids
    again.rig.assert_settled(ids)
    jobs = again.rig.finished(ids)
    assert {job.status for job in jobs} == {"completed"}
    assert {job.job_id for job in again.rig.service.history().jobs} == set(ids)
    with storage.get_session(read_only=True) as session:
        assert sum(each.used_count for each in storage.get_all_prompts(session)) == len(ids)
