"""Checks before a worker starts."""

from pathlib import Path

import pytest

from services.errors import SettingsError
from services.storage.workers import WorkerState
from services.worker.lock import WorkerLock
from services.worker.preflight import (
    explain_unshared_folder,
    find_file_system,
    require_local_disk,
    require_one_machine,
)

MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/share /srv nfs4 rw 0 0
/dev/vdb /srv/local xfs rw 0 0
//box/music /mnt/my\\040music cifs rw 0 0
"""


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
    assert find_file_system(Path(path), MOUNTS) == kind


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
        concurrency=1, draining=False, outage=None, age=0.0,
    )  # fmt: skip


def test_an_sqlite_file_that_another_machine_uses_is_refused(tmp_path):
    lock = WorkerLock(tmp_path)
    require_one_machine([state(lock.slot)])
    lock.release()
    with pytest.raises(SettingsError, match="A worker on far"):
        require_one_machine([state("another-boot:1:2")])


def test_an_output_folder_that_another_machine_cannot_read_is_reported(tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    monkeypatch.setattr("services.worker.preflight._MOUNTS", mounts)
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/share {tmp_path}/shared nfs4 rw 0 0\n")
    lock = WorkerLock(tmp_path)
    far = [state(lock.slot), state("another-boot:1:2")]
    lock.release()
    assert "DGX_MUSIC_FILE_STORE" in str(explain_unshared_folder(tmp_path / "outputs", far))
    assert explain_unshared_folder(tmp_path / "outputs", far[:1]) is None
    assert explain_unshared_folder(tmp_path / "shared" / "outputs", far) is None
