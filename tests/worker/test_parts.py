"""The small parts of a worker, each by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import errors
from services.errors import DGXMusicError, SettingsError
from services.jobs import failpoints
from services.library.drafts import clear_files, draft_path, give_name
from services.storage.workers import WorkerState
from services.worker.lock import WorkerLock
from services.worker.preflight import (
    file_system_of,
    require_local_disk,
    require_one_machine,
    why_files_stay_here,
)
from services.worker.retry import is_worker_lost, retry_delay

MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/share /srv nfs4 rw 0 0
/dev/vdb /srv/local xfs rw 0 0
//box/music /mnt/my\\040music cifs rw 0 0
"""


def test_pauses_double_and_then_there_are_none():
    pauses = [retry_delay(begun, max_retries=3, first_delay=1.0) for begun in (1, 2, 3, 4)]
    assert pauses == [1.0, 2.0, 4.0, None]


@given(st.integers(0, 10), st.floats(0, 3600))
def test_a_job_is_tried_as_often_as_the_setting_says(retries, first):
    begun = 1
    while retry_delay(begun, max_retries=retries, first_delay=first) is not None:
        begun += 1
    assert begun == 1 + retries


def test_the_third_crash_gives_a_job_up():
    assert [is_worker_lost(crashes) for crashes in (1, 2, 3)] == [False, False, True]


def test_only_what_may_go_better_next_time_is_retryable():
    found = {
        item.__name__
        for item in vars(errors).values()
        if isinstance(item, type) and issubclass(item, DGXMusicError) and item.retryable
    }
    assert found == {"EngineError", "StorageError", "OutputError", "StoreAwayError"}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/x.db", "ext4"),
        ("/srv/x.db", "nfs4"),
        ("/srvx/x.db", "ext4"),
        ("/srv/local/a/x.db", "xfs"),
        ("/mnt/my music/x.db", "cifs"),
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(path, kind):
    assert file_system_of(Path(path), MOUNTS) == kind


def test_a_database_on_a_share_is_refused(tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/share {tmp_path.as_posix()} nfs rw 0 0\n")
    monkeypatch.setattr("services.worker.preflight._MOUNTS", mounts)
    with pytest.raises(SettingsError, match=r"network share \(nfs\)"):
        require_local_disk(tmp_path / "generations.db")
    require_local_disk(Path("/generations.db"))
    require_local_disk(None)


def state(slot: str) -> WorkerState:
    return WorkerState(
        id="far.0.1", slot=slot, process="", host="far", pid=1, models=("composer",),
        concurrency=1, draining=False, age=0.0,
    )  # fmt: skip


def test_a_worker_of_another_machine_on_the_same_file_is_refused(tmp_path):
    lock = WorkerLock(tmp_path)
    require_one_machine([state(lock.slot)])
    lock.release()
    with pytest.raises(SettingsError, match="A worker on far"):
        require_one_machine([state("another-boot:1:2")])


def test_files_that_another_machine_cannot_have_are_noticed(tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    monkeypatch.setattr("services.worker.preflight._MOUNTS", mounts)
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/share {tmp_path}/shared nfs4 rw 0 0\n")
    lock = WorkerLock(tmp_path)
    far = [state(lock.slot), state("another-boot:1:2")]
    lock.release()
    assert "DGX_MUSIC_FILE_STORE" in str(why_files_stay_here(tmp_path / "outputs", far))
    assert why_files_stay_here(tmp_path / "outputs", far[:1]) is None
    assert why_files_stay_here(tmp_path / "shared" / "outputs", far) is None


def test_a_lock_is_held_by_one_process_and_found_again_after_it(tmp_path):
    first, second = WorkerLock(tmp_path), WorkerLock(tmp_path)
    assert (first.number, second.number) == (0, 1)
    assert first.slot != second.slot
    slot = first.slot
    first.release()
    program = (
        "import sys; from pathlib import Path;"
        "from services.worker.lock import WorkerLock;"
        "lock = WorkerLock(Path(sys.argv[1])); print(lock.number, lock.slot)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["0", slot]
    second.release()


def test_drafts_are_hidden_beside_the_take_and_cleared_with_it(tmp_path):
    final = tmp_path / "2026" / "11" / "21" / "abc.wav"
    mine, another = (Path(draft_path(final, nonce)) for nonce in ("one", "two"))
    neighbour = Path(draft_path(final.with_name("abcd.wav"), "one"))
    for draft in (mine, another, neighbour):
        draft.parent.mkdir(parents=True)
        draft.write_bytes(b"audio")
    give_name(mine, final)
    assert final.read_bytes() == b"audio"
    give_name(mine, final)
    clear_files(final)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [neighbour]
    with pytest.raises(FileNotFoundError):
        give_name(mine, final)


def test_fail_points_end_the_process_at_the_pass_that_was_asked_for():
    program = (
        "from services.jobs.failpoints import reach\n"
        "for turn in range(3):\n    print(turn, flush=True)\n    reach('take-made')\n"
    )
    for wanted, printed in (("take-made:2", "0\n1\n"), ("other", "0\n1\n2\n"), ("", "0\n1\n2\n")):
        ran = subprocess.run(
            [sys.executable, "-c", program],
            env={failpoints.VARIABLE: wanted, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.stdout == printed
        assert ran.returncode == (failpoints.EXIT_CODE if printed == "0\n1\n" else 0)
