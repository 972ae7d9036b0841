"""Emptying the database: what goes, what stays, and when it is refused."""

from __future__ import annotations

import pytest

from services import storage
from services.errors import StorageError
from services.jobs.attempt_token import AttemptToken
from services.machine.process_identity import ProcessIdentity
from services.operations.resetting import Contents, count_contents, reset_database


@pytest.fixture
def filled(rig):
    """A rig with two jobs, a key and an installed model."""
    rig.add("a beat")
    rig.complete(1.0)
    with storage.get_session() as session:
        storage.create_api_key(session, "laptop")
        storage.record_model(
            session, "tiny", revision="1", licence="MIT", sample_rate=32_000, channels=1,
            longest_seconds=30.0, size_bytes=5, path="tiny",
        )  # fmt: skip
    return rig


def left():
    with storage.get_session(read_only=True) as session:
        return (
            storage.count_generations(session),
            len(storage.list_api_keys(session)),
            len(storage.get_models(session)),
        )


def reset(rig, **options):
    reset_database(rig.state.settings, **{"with_keys": False, "even_in_use": False, **options})


def test_music_goes_and_the_installation_stays(filled):
    assert count_contents(with_keys=False) == Contents(jobs=2, prompts=2, keys=0)
    reset(filled)
    assert left() == (0, 1, 1)
    assert storage.check_database().ok


def test_keys_go_on_request(filled):
    assert count_contents(with_keys=True).keys == 1
    reset(filled, with_keys=True)
    assert left() == (0, 0, 1)


def test_database_of_a_living_worker_is_emptied_only_on_request(filled):
    filled.start_worker("w", "here")
    with pytest.raises(StorageError, match="Workers use this database"):
        reset(filled)
    assert left() == (2, 1, 1)
    reset(filled, even_in_use=True)
    assert left() == (0, 1, 1)


def test_database_of_a_running_command_is_not_emptied(filled):
    job = filled.add()
    with storage.get_session() as session:
        token = AttemptToken(str(ProcessIdentity.current()), "nonce")
        assert storage.claim_generation(session, job, str(token))
    with pytest.raises(StorageError, match=f"is running the job {job}"):
        reset(filled)
    assert left()[0] == 3
