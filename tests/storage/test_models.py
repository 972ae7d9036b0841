"""Objects that are used without a database."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import sqlite

from services.storage import (
    FINISHED_STATUSES,
    STATUSES,
    Generation,
    GenerationStatus,
    Prompt,
    get_schema_version,
    validate_status,
)
from services.storage.columns import Digest, UtcDateTime, as_utc
from services.storage.schema import HEAD_REVISION, KNOWN_REVISIONS, require_status

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)  # fmt: skip

PROPERTIES = {
    "pending": "is_pending",
    "processing": "is_processing",
    "completed": "is_complete",
    "failed": "is_failed",
    "cancelled": "is_cancelled",
}


def generation(**changes: Any) -> Generation:
    values: dict[str, Any] = {
        "prompt": "beat", "model_name": "composer", "duration_seconds": 16.0,
        "sample_rate": 32000, "channels": 2, "file_path": "a.wav",
    }  # fmt: skip
    return Generation(**(values | changes))


def test_statuses_equal_their_strings() -> None:
    assert GenerationStatus.PENDING == "pending"
    assert STATUSES == ("pending", "processing", "completed", "failed", "cancelled")
    assert set(FINISHED_STATUSES) == {"completed", "failed", "cancelled"}


@given(st.text())
def test_only_the_five_statuses_are_valid(text: str) -> None:
    assert validate_status(text) == (text in STATUSES)


def test_known_status_becomes_a_plain_string() -> None:
    assert type(require_status(GenerationStatus.FAILED)) is str
    with pytest.raises(ValueError, match="'lost'"):
        require_status("lost")


def test_schema_version_and_revisions() -> None:
    assert get_schema_version() == "1.5.0"
    assert (KNOWN_REVISIONS[0], HEAD_REVISION) == ("001", KNOWN_REVISIONS[-1])


def test_new_generation_has_id_status_and_time() -> None:
    before = datetime.now(UTC)
    made = generation()
    assert uuid.UUID(made.id).version == 4
    assert str(uuid.UUID(made.id)) == made.id
    assert type(made.status) is str
    assert made.is_pending
    assert before <= made.created_at <= datetime.now(UTC)
    assert made.attempts == 0


def test_two_generations_have_different_ids() -> None:
    assert generation().id != generation().id


def test_given_values_are_kept() -> None:
    moment = datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=3)))
    made = generation(id="x", status=GenerationStatus.FAILED, created_at=moment, attempts=2)
    assert (made.id, made.status, made.attempts) == ("x", "failed", 2)
    assert made.created_at == datetime(2026, 1, 2, 0, tzinfo=UTC)


@pytest.mark.parametrize("status", STATUSES)
def test_properties_follow_the_status(status: str) -> None:
    made = generation(status=status)
    true = {name for name in PROPERTIES.values() if getattr(made, name)}
    assert true == {PROPERTIES[status]}
    assert made.is_finished == (status in FINISHED_STATUSES)


def test_marking_moves_from_pending_to_completed() -> None:
    made = generation()
    made.mark_processing()
    assert made.is_processing
    assert made.completed_at is None
    made.mark_completed(generation_time=18.5)
    assert made.is_complete
    assert made.generation_time_seconds == 18.5
    assert made.completed_at is not None
    assert made.completed_at >= made.created_at


def test_failure_message_stays_until_completion() -> None:
    made = generation()
    made.mark_failed(error_message="no memory")
    assert (made.is_failed, made.error_message) == (True, "no memory")
    made.mark_pending()
    assert made.is_pending
    assert made.completed_at is None
    made.mark_completed(1.0)
    assert made.error_message is None


def test_cancelling_sets_the_completion_time() -> None:
    made = generation()
    made.mark_cancelled()
    assert made.is_cancelled
    assert made.completed_at is not None


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON_VALUES))
def test_metadata_round_trips(metadata: dict[str, Any]) -> None:
    made = generation()
    made.set_metadata(metadata)
    assert made.get_metadata() == metadata


@pytest.mark.parametrize("unreadable", [None, "", "{", "[1]", '"text"', "NaN", "\x00"])
def test_missing_or_unreadable_metadata_is_empty(unreadable: str | None) -> None:
    assert generation(metadata_json=unreadable).get_metadata() == {}


@pytest.mark.parametrize(
    ("wrong", "error"), [({"x": float("nan")}, ValueError), ({"x": object()}, TypeError)]
)
def test_metadata_without_a_json_form_is_refused(
    wrong: dict[str, Any], error: type[Exception]
) -> None:
    made = generation(metadata={"kept": 1})
    with pytest.raises(error):
        made.set_metadata(wrong)
    assert made.get_metadata() == {"kept": 1}


def test_merged_metadata_keeps_the_new_value() -> None:
    made = generation(metadata={"a": 1, "b": 2})
    made.merge_metadata({"b": 3, "c": 4})
    made.merge_metadata(None)
    assert made.get_metadata() == {"a": 1, "b": 3, "c": 4}


def test_generation_dictionary_can_be_encoded_as_json() -> None:
    made = generation(metadata={"bpm": 90}, created_at=datetime(2026, 1, 2, 3, 4, 5))
    given = json.loads(json.dumps(made.to_dict()))
    assert given["metadata"] == {"bpm": 90}
    assert given["created_at"] == "2026-01-02T03:04:05+00:00"
    assert given["completed_at"] is None
    assert given["status"] == "pending"
    assert {"id", "prompt", "model_name", "file_path", "error_message"} <= set(given)


def test_generation_dictionary_omits_the_attempt_token() -> None:
    assert "secret" not in str(generation(attempt_token="secret").to_dict())


def test_new_prompt_has_one_use_now() -> None:
    before = datetime.now(UTC)
    made = Prompt(text="beat")
    assert made.used_count == 1
    assert before <= made.first_used_at == made.last_used_at <= datetime.now(UTC)


def test_another_use_updates_count_and_last_time() -> None:
    moment = datetime(2025, 1, 1)
    made = Prompt(text="beat", used_count=4, first_used_at=moment)
    made.increment_usage()
    assert made.used_count == 5
    assert made.first_used_at == moment.replace(tzinfo=UTC)
    assert made.last_used_at > made.first_used_at


def test_prompt_dictionary_has_every_column() -> None:
    moment = datetime(2025, 1, 1, tzinfo=UTC)
    made = Prompt(id=3, text="beat", first_used_at=moment)
    assert made.to_dict() == {
        "id": 3,
        "text": "beat",
        "used_count": 1,
        "first_used_at": "2025-01-01T00:00:00+00:00",
        "last_used_at": "2025-01-01T00:00:00+00:00",
    }


def test_repr_names_id_and_state() -> None:
    assert repr(generation(id="x")) == "<Generation x pending>"
    assert repr(Prompt(id=1, text="t")) == "<Prompt 1 used 1 times>"


@given(st.datetimes(timezones=st.none() | st.timezones()))
def test_moments_are_bound_as_utc_without_a_zone(moment: datetime) -> None:
    try:
        expected = as_utc(moment)
    except OverflowError:
        return
    bound = UtcDateTime().process_bind_param(moment, None)  # type: ignore[arg-type] - not looked at
    assert bound is not None
    assert bound.tzinfo is None
    back = UtcDateTime().process_result_value(bound, None)  # type: ignore[arg-type] - not looked at
    assert back == expected


def test_missing_moment_stays_none() -> None:
    column = UtcDateTime()
    assert column.process_bind_param(None, None) is None  # type: ignore[arg-type] - not looked at
    assert column.process_result_value(None, None) is None  # type: ignore[arg-type] - not looked at


def test_digest_is_stored_as_raw_bytes() -> None:
    digest = Digest()
    dialect = sqlite.dialect()
    packed = digest.process_bind_param("AB" * 32, dialect)
    assert packed == b"\xab" * 32
    assert digest.process_result_value(packed, dialect) == "ab" * 32
    assert digest.process_bind_param(None, dialect) is None
    assert digest.process_result_value(None, dialect) is None


def test_digest_that_is_not_hexadecimal_is_refused() -> None:
    with pytest.raises(ValueError, match="hexadecimal"):
        Digest().process_bind_param("not a digest", sqlite.dialect())


@given(st.lists(st.tuples(st.sampled_from(STATUSES), st.none() | st.text(max_size=5)), min_size=1))
def test_completion_time_is_set_exactly_in_finished_statuses(
    changes: list[tuple[str, str | None]],
) -> None:
    made = generation()
    for status, message in changes:
        made.set_status(status, message)
        assert (made.completed_at is not None) == made.is_finished
        assert (made.status, made.error_message) == (status, message)


def test_metadata_text_keeps_other_scripts_readable() -> None:
    made = generation(metadata={"title": "Вальс"})
    assert made.metadata_json == '{"title":"Вальс"}'


def test_merging_into_unreadable_metadata_replaces_it() -> None:
    made = generation(metadata_json="[1]")
    made.merge_metadata({"a": 1})
    assert made.get_metadata() == {"a": 1}
