"""A fault of the machine is waited out: it costs no job an attempt."""

from __future__ import annotations

import errno
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from services.errors import ShortageError, StoreAwayError
from services.library.store import FolderStore
from services.library.takes import Delivery
from services.machine.shortage import find_shortage
from services.operations.health import check_queue
from services.worker import outage as outage_module
from services.worker.outage import Outage, find_reason
from tests.conftest import LIMIT_SECONDS, disk_of, wait_until

if TYPE_CHECKING:
    from tests.worker.conftest import Rig

MIB = 1 << 20


class Machine:
    """A machine whose state a test sets."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.asked: list[int] = []
        self.looked = threading.Event()

    def find_reason(self, need: int) -> str | None:
        self.asked.append(need)
        self.looked.set()
        return self.reason


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage_module, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(outage_module, "LONGEST_PAUSE_SECONDS", 0.004)


def test_a_fault_that_is_over_at_once_is_no_outage():
    machine = Machine()
    outage = Outage(machine.find_reason)
    assert not outage.is_found(5)
    assert (outage.reason, machine.asked) == (None, [5])


@pytest.mark.usefixtures("pauses")
def test_an_outage_lasts_until_the_largest_file_that_failed_has_space(caplog):
    caplog.set_level("INFO")
    machine = Machine()
    machine.reason = "A disk is full."
    outage = Outage(machine.find_reason)
    assert outage.is_found(5)
    assert outage.is_found(9)
    assert outage.is_found(7)
    machine.looked.clear()
    assert machine.looked.wait(LIMIT_SECONDS)
    assert outage.reason == "A disk is full."
    machine.reason = "A disk cannot be written."
    wait_until(lambda: outage.reason == "A disk cannot be written.")
    machine.reason = None
    wait_until(lambda: outage.reason is None)
    assert machine.asked[-1] == 9
    assert [record.message for record in caplog.records] == [
        "takes no jobs: A disk is full.",
        "takes no jobs: A disk cannot be written.",
        "takes jobs again",
    ]
    assert not outage.is_found(3)
    assert machine.asked[-1] == 3


@pytest.mark.usefixtures("pauses")
def test_an_outage_is_no_longer_watched_when_the_worker_ends():
    machine = Machine()
    machine.reason = "A disk is full."
    outage = Outage(machine.find_reason)
    before = set(threading.enumerate())
    assert outage.is_found(1)
    (watch,) = set(threading.enumerate()) - before
    outage.end()
    watch.join(LIMIT_SECONDS)
    assert not watch.is_alive()


@pytest.mark.usefixtures("pauses")
def test_an_outage_is_watched_whatever_a_look_raises(caplog):
    looks = iter(["A disk is full.", ZeroDivisionError("odd"), None])

    def look(_need: int) -> str | None:
        found = next(looks)
        if isinstance(found, Exception):
            raise found
        return found

    outage = Outage(look)
    assert outage.is_found(1)
    wait_until(lambda: outage.reason is None)
    assert "takes no jobs: The machine cannot be checked." in caplog.text
    assert "ZeroDivisionError: odd" in caplog.text


def test_an_outage_without_a_thread_to_watch_it_is_none(monkeypatch):
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    outage = Outage(lambda _need: "A disk is full.")
    assert not outage.is_found(1)
    assert outage.reason is None


@pytest.mark.usefixtures("pauses")
def test_the_pauses_of_an_outage_that_comes_and_goes_go_on_growing(monkeypatch):
    monkeypatch.setattr(outage_module, "LONGEST_PAUSE_SECONDS", 3600.0)
    machine = Machine()
    outage = Outage(machine.find_reason)
    for _ in range(2):
        machine.reason = "A disk is full."
        assert outage.is_found(1)
        machine.reason = None
        wait_until(lambda: outage.reason is None)
    assert outage._pause > 2 * outage_module.FIRST_PAUSE_SECONDS
    outage._over_at -= 2 * outage_module.LONGEST_PAUSE_SECONDS
    # So long that this test does not see its end.
    monkeypatch.setattr(outage_module, "FIRST_PAUSE_SECONDS", 3600.0)
    machine.reason = "A disk is full."
    assert outage.is_found(1)
    assert outage._pause == outage_module.FIRST_PAUSE_SECONDS
    outage.end()


def delivery_to(folder: Path) -> Delivery:
    return Delivery(output_dir=folder, target_lufs=None, true_peak_dbtp=-1.0, bit_depth="PCM_16")


def find(folder: Path, need: int = MIB, store: Any = None) -> str | None:
    return find_reason(delivery_to(folder), store or FolderStore(folder), need)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The output folder on a disk of its own, 24 MiB."""
    with disk_of(tmp_path / "outputs", 24) as disk:
        yield disk


def fill(folder: Path) -> Path:
    ballast = folder / "ballast"
    ballast.write_bytes(b"\0" * (shutil.disk_usage(folder).free - MIB))
    return ballast


def test_a_machine_that_lacks_nothing_has_no_outage_and_keeps_no_file(tmp_path):
    assert find(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_the_scratch_folder_of_a_bucket_is_made(tmp_path):
    bucket = SimpleNamespace(check=lambda: None)
    assert find(tmp_path / "new" / "outputs", store=bucket) is None
    assert (tmp_path / "new" / "outputs").is_dir()


def test_a_folder_whose_disk_is_not_mounted_is_an_outage_and_not_made(tmp_path):
    assert find(tmp_path / "outputs") == "The output folder is not there."
    assert not (tmp_path / "outputs").exists()


def test_a_full_disk_is_an_outage_for_files_that_do_not_fit(small_disk):
    assert find(small_disk, 8 * MIB) is None
    assert find(small_disk, 17 * MIB) == "A disk is full."
    fill(small_disk)
    assert find(small_disk, 0) == "A disk is full."


def test_a_folder_in_the_way_is_an_outage(tmp_path):
    (tmp_path / "outputs").write_text("mine")
    bucket = SimpleNamespace(check=lambda: None)
    reason = find(tmp_path / "outputs", store=bucket)
    assert reason == "The output folder cannot be written: File exists."


def test_a_store_that_is_away_is_an_outage_without_its_address(tmp_path):
    def check() -> None:
        raise StoreAwayError("s3://secret-bucket/ does not respond.")

    reason = find(tmp_path, store=SimpleNamespace(check=check))
    assert reason == "The bucket of the finished files does not respond."


def test_too_many_open_files_are_an_outage(tmp_path):
    _, hard = before = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = sum(1 for _ in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 10, hard))
    try:
        assert find(tmp_path) == "This process has too many files open."
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_shortage_is_found_behind_other_errors():
    def fail() -> None:
        try:
            raise OSError(errno.EMFILE, "Too many open files", "/secret/folder")
        except OSError as error:
            raise ValueError("odd") from error

    with pytest.raises(ValueError, match="odd") as caught:
        fail()
    found = find_shortage(caught.value)
    assert isinstance(found, ShortageError)
    assert str(found) == "This process has too many files open."
    assert find_shortage(OSError(errno.ENOENT, "No such file")) is None
    no_thread = find_shortage(RuntimeError("can't start new thread"))
    assert str(no_thread) == "The machine starts no more processes and threads."


def test_a_shortage_that_was_dealt_with_is_not_found():
    def fail() -> None:
        try:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        except BlockingIOError:
            raise ValueError("odd") from None

    with pytest.raises(ValueError, match="odd") as caught:
        fail()
    assert find_shortage(caught.value) is None


@pytest.mark.integration
def test_jobs_wait_for_a_full_disk_and_lose_no_attempt(
    small_disk: Path, make_rig: Callable[[str], Rig], sqlite_url_with_tables: str
) -> None:
    rig = make_rig(sqlite_url_with_tables, disk_floor_bytes="0")
    worker = rig.worker(concurrency=2, worker_ttl_seconds=5)
    # The first two are past the look at the disk before it fills, and their files still fit.
    jobs = rig.submit(*["hold"] * 12)
    for job in jobs[:2]:
        rig.started(job)
    ballast = fill(small_disk)
    rig.release()
    rig.until(lambda: check_queue(rig.service.settings).outages == ["A disk is full."])
    rig.until(lambda: check_queue(rig.service.settings).waiting_jobs == 10)
    health = check_queue(rig.service.settings)
    assert (health.status, health.workers) == ("degraded", 0)
    assert health.detail == "A worker takes no jobs until this is over: A disk is full."
    ballast.unlink()
    finished = rig.finished(jobs)
    assert {(job.status, job.retry_count, job.error_message) for job in finished} == {
        ("completed", 0, None)
    }
    rig.assert_settled(jobs)
    rig.until(lambda: check_queue(rig.service.settings).outages == [])
    assert worker.poll() is None
    assert "takes jobs again" in rig.log


@pytest.mark.integration
def test_jobs_wait_for_a_folder_that_cannot_be_written(sqlite_rig: Rig) -> None:
    rig = sqlite_rig
    rig.worker()
    jobs = rig.submit("hold", "sleep 0", "sleep 0")
    rig.started(jobs[0])
    kept = rig.folder / "kept"
    rig.outputs.rename(kept)
    rig.outputs.write_text("in the way")
    rig.release()
    rig.until(lambda: "takes no jobs: The output folder is not there." in rig.log)
    rig.outputs.unlink()
    kept.rename(rig.outputs)
    assert {(job.status, job.retry_count) for job in rig.finished(jobs)} == {("completed", 0)}
