"""The jobs that a caller can see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.api.caller import Caller
from services.api.visible import find_visible_job
from services.errors import UnknownGenerationError
from tests.api.conftest import EVERYBODY, add_job

if TYPE_CHECKING:
    from services.api.state import ApiState

ALICE = Caller("alice", sees_all=False, name="alice")
NOBODY = Caller(None, sees_all=False, name="203.0.113.7")


@pytest.mark.parametrize(
    ("caller", "visible", "owner_filter"),
    [
        (EVERYBODY, {"alice", "bob", None}, None),
        (ALICE, {"alice"}, "alice"),
        (NOBODY, set(), None),
    ],
)
def test_caller_sees_its_own_jobs_or_all(
    caller: Caller, visible: set[str | None], owner_filter: str | None
) -> None:
    assert {owner for owner in ("alice", "bob", None) if caller.can_see(owner)} == visible
    assert caller.owner_filter == owner_filter


def test_invisible_job_is_reported_like_a_missing_one(state: ApiState) -> None:
    mine, foreign = add_job("alice"), add_job("bob")
    assert find_visible_job(state, ALICE, mine).owner == "alice"
    messages = set()
    for job_id in (foreign, "0" * 36):
        with pytest.raises(UnknownGenerationError) as caught:
            find_visible_job(state, ALICE, job_id)
        messages.add(str(caught.value).replace(job_id, ""))
    assert len(messages) == 1
