"""The folder store, and the bucket store on a real server, against one interface."""

import hashlib
import itertools
import os
import socket
import sys
import threading
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services import storage
from services.cli import doctor
from services.config import Settings, load_settings
from services.errors import FileDamagedError, OutputError, SettingsError, StoreAwayError
from services.library import cleanup, reconcile
from services.library.attachments import attachment_name
from services.library.drafts import draft_path, remove_old_drafts
from services.library.reconcile import (
    LOST_AND_FOUND,
    OrphanKind,
    find_orphans,
    has_take,
    repair_orphans,
)
from services.library.store import (
    FileStore,
    FolderStore,
    folder,
    open_store,
    sha256_of,
    try_remove_leftovers,
)
from services.library.store import bucket as bucket_module
from services.library.store import cache as cache_module
from services.library.store.bucket import BucketStore

pytestmark = pytest.mark.integration

DAY = "2026/11/21"
NAME = f"{DAY}/abc.wav"
MUSIC = bytes(range(256)) * 41
NONCES = (f"{number:032x}" for number in itertools.count())


def digest(data):
    return hashlib.sha256(data).hexdigest()


@dataclass
class Shelf:
    """A store, and the folder that attempts write to."""

    store: FileStore
    outputs: Path

    def upload(self, data=MUSIC, name=NAME):
        """Upload as an attempt does; return the draft and the final name."""
        nonce = next(NONCES)
        draft = Path(draft_path(self.outputs / name, nonce))
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(data)
        final = self.store.final_name(name, nonce)
        self.store.upload(draft, final, digest(data))
        return draft, final

    def put(self, data=MUSIC, name=NAME):
        draft, final = self.upload(data, name)
        self.store.publish(draft, final)
        return final

    def names(self):
        return sorted(file.relative for file in self.store.list() if not file.is_temporary)


@pytest.fixture
def outputs(tmp_path):
    folder = tmp_path / "outputs"
    folder.mkdir()
    return folder


@pytest.fixture(params=["folder", "bucket"])
def shelf(request, outputs):
    if request.param == "folder":
        return Shelf(FolderStore(outputs), outputs)
    url = request.getfixturevalue("bucket_url")
    return Shelf(BucketStore(url, scratch=outputs, cache_bytes=2**20, patience=0.5), outputs)


@pytest.fixture
def bucket(bucket_url, outputs):
    store = BucketStore(bucket_url, scratch=outputs, cache_bytes=2**20, patience=0.5)
    return Shelf(store, outputs)


@dataclass
class Line:
    """A connection to the server that can be cut."""

    port: int
    cut_after: int | None = None
    """Bytes from the client, after which the line goes dead."""
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    def __post_init__(self):
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def close(self):
        # Closing alone would let the thread that waits accept one more.
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.port))
            for source, target, cut in ((client, server, True), (server, client, False)):
                threading.Thread(target=self.pump, args=(source, target, cut), daemon=True).start()

    def pump(self, source, target, cut):
        passed = 0
        with source, target, suppress(OSError):
            while data := source.recv(16_384):
                passed += len(data)
                if cut and self.cut_after is not None and passed > self.cut_after:
                    break
                target.sendall(data)
            for one in (source, target):
                one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def line(bucket_server, monkeypatch, bucket_url):
    """A connection between the bucket store and its server."""
    made = Line(bucket_server.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
    yield made
    made.close()


def test_a_published_file_is_read_back_unchanged(shelf):
    final = shelf.put()
    assert isinstance(shelf.store, FileStore)
    assert final.rpartition("/")[2] == "abc.wav"
    assert shelf.names() == [final]
    assert shelf.store.exists(final)
    found = shelf.store.stat(final)
    assert (found.size, found.sha256 or digest(MUSIC)) == (len(MUSIC), digest(MUSIC))
    assert found.etag
    assert '"' not in found.etag
    assert sha256_of(shelf.store, final) == digest(MUSIC)
    assert shelf.store.local_copy(final, digest(MUSIC)).read_bytes() == MUSIC
    assert shelf.store.display_path(final) == f"{shelf.store.location}/{final}"
    (listed,) = [file for file in shelf.store.list() if not file.is_temporary]
    assert (listed.size, listed.is_in_day_folder) == (len(MUSIC), True)
    assert abs(listed.changed - found.modified.timestamp()) < 1.0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    start=st.integers(0, len(MUSIC) + 10),
    end=st.none() | st.integers(0, len(MUSIC) + 10),
    piece=st.sampled_from([1_000, 4_096, len(MUSIC), 2**20]),
)
def test_a_range_equals_the_slice_of_the_file(shelf, start, end, piece):
    if not shelf.names():
        shelf.put()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bucket_module, "PIECE", piece)
        read = b"".join(shelf.store.read_range(shelf.names()[0], start, end))
    assert read == MUSIC[start:end]


def test_a_missing_file_is_reported_at_once(shelf):
    for look in (shelf.store.stat, shelf.store.read_range, shelf.store.local_copy):
        with pytest.raises(FileNotFoundError, match=r"none\.wav"):
            look(f"{DAY}/none.wav")
    assert not shelf.store.exists(f"{DAY}/none.wav")
    assert not shelf.store.delete(f"{DAY}/none.wav")
    with pytest.raises(FileNotFoundError):
        shelf.store.move(f"{DAY}/none.wav", "other.wav")


def test_a_file_is_read_again_only_when_it_changed(tmp_path, monkeypatch):
    store = FolderStore(tmp_path)
    paths = [tmp_path / f"{number}.wav" for number in range(3)]
    for path in paths:
        path.write_bytes(MUSIC)
    read = []
    file_digest = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, kind: read.append(file.name) or file_digest(file, kind)
    )
    for _ in range(3):
        assert store.local_copy("0.wav", digest(MUSIC)) == paths[0]
    assert read == [str(paths[0])]
    os.utime(paths[0], ns=(1, 1))
    store.local_copy("0.wav", digest(MUSIC))
    assert len(read) == 2
    with pytest.raises(FileDamagedError, match=r"0\.wav is damaged"):
        store.local_copy("0.wav", digest(b"another"))
    store.local_copy("0.wav")
    monkeypatch.setattr(folder, "_MOST_REMEMBERED", 1)
    for path in paths:
        store.local_copy(path.name, digest(MUSIC))
    assert len(store._unchanged) == 1


@pytest.mark.parametrize("name", ["", "..", "../x.wav", "a/../../x.wav", "/etc/hostname"])
def test_a_name_out_of_the_store_is_refused(shelf, name):
    (shelf.outputs.parent / "x.wav").write_bytes(b"secret")
    inside = shelf.put()
    for look in (
        shelf.store.stat,
        shelf.store.exists,
        shelf.store.read_range,
        shelf.store.local_copy,
        shelf.store.delete,
        shelf.store.remove_leftovers,
        lambda bad: shelf.store.move(inside, bad),
    ):
        with pytest.raises(ValueError, match=r"out of|outside"):
            look(name)
    try_remove_leftovers(shelf.store, name)
    assert (shelf.outputs.parent / "x.wav").read_bytes() == b"secret"
    assert shelf.names() == [inside]


def test_removing_leftovers_removes_only_files_of_this_job(shelf):
    neighbour = shelf.put(b"other", f"{DAY}/abcd.wav")
    draft, _ = shelf.upload()
    shelf.put(b"earlier")
    shelf.store.remove_leftovers(NAME)
    assert shelf.names() == [neighbour]
    assert not draft.exists()


def test_stems_and_midi_of_earlier_attempts_are_leftovers_too(shelf):
    nonce = next(NONCES)
    take = shelf.store.final_name(NAME, nonce)
    for kind, name in (("stem", "drums"), ("stem", "lead"), ("midi", "score")):
        final = attachment_name(take, kind, name)
        draft = shelf.outputs / f".dgx-{name}.part"
        draft.write_bytes(MUSIC)
        shelf.store.upload(draft, final, digest(MUSIC))
        shelf.store.publish(draft, final)
        assert b"".join(shelf.store.read_range(final)) == MUSIC
    other = shelf.put(name=f"{DAY}/other.wav")
    assert len(shelf.names()) == 4
    shelf.store.remove_leftovers(NAME)
    assert shelf.names() == [other]


@pytest.mark.parametrize(("name", "media_type"), [("a.wav", "audio/wav"), ("a.mid", "audio/midi")])
def test_a_file_in_a_bucket_has_its_media_type(bucket, name, media_type):
    final = bucket.put(name=f"{DAY}/{name}")
    store = bucket.store
    found = store._library.get(store._reader, final, options={"head": True})
    assert found.attributes["Content-Type"] == media_type


def test_no_leftovers_are_removed_by_a_caller_that_lost_the_job(shelf):
    final = shelf.put()
    draft, uploaded = shelf.upload()
    shelf.store.remove_leftovers(NAME, lambda: nullcontext(enter_result=False))
    assert set(shelf.names()) == ({final} if final == uploaded else {final, uploaded})
    assert draft.exists()


def test_a_file_is_moved_and_deleted(shelf):
    final = shelf.put()
    shelf.store.move(final, f"{LOST_AND_FOUND}/{final}")
    shelf.store.prune_folders(final)
    assert shelf.names() == [f"{LOST_AND_FOUND}/{final}"]
    assert b"".join(shelf.store.read_range(f"{LOST_AND_FOUND}/{final}")) == MUSIC
    assert shelf.store.delete(f"{LOST_AND_FOUND}/{final}")
    assert shelf.names() == []


def row(final, data=MUSIC):
    with storage.get_session() as session:
        made = storage.create_generation(session, "words", "composer", 1.0, 48_000, 2, final)
        made.set_status("completed", None)
        made.file_size_bytes = len(data)
        made.file_sha256 = digest(data)
    return made.id


def read(generation_id):
    with storage.get_session(read_only=True) as session:
        return storage.get_generation(session, generation_id)


def test_orphans_are_found_and_repaired(shelf, sqlite_database, monkeypatch):
    monkeypatch.setattr(reconcile, "GRACE_SECONDS", -10.0)
    good = shelf.put(name=f"{DAY}/good.wav")
    loose = shelf.put(name=f"{DAY}/loose.wav")
    changed = shelf.put(b"X" * len(MUSIC), f"{DAY}/changed.wav")
    gone = row(f"{DAY}/gone.wav")
    out = row("../out.wav")
    for final in (good, changed):
        row(final)
    # The drafts of the attempts are local, and what a bucket does not list.
    findings = find_orphans(shelf.store, deep=True)
    assert [(one.kind, one.path) for one in findings.orphans] == [
        (OrphanKind.CHANGED, changed),
        (OrphanKind.MISSING, f"{DAY}/gone.wav"),
        (OrphanKind.UNCLAIMED, loose),
        (OrphanKind.UNREACHABLE, "../out.wav"),
    ]
    actions = [action for _, action in repair_orphans(shelf.store, findings)]
    assert actions == [None, "recorded in the database", f"moved to {LOST_AND_FOUND}/{loose}", None]
    assert shelf.names() == sorted([good, changed, f"{LOST_AND_FOUND}/{loose}"])
    assert not has_take(read(gone))
    assert has_take(read(out))
    plan = cleanup.clean_up_files(shelf.store, max_bytes=0, dry_run=False)
    assert len(plan.files) == 3
    assert shelf.names() == []


def test_an_unpublished_upload_is_unclaimed_once_its_job_is_finished(
    bucket, sqlite_database, monkeypatch
):
    monkeypatch.setattr(reconcile, "GRACE_SECONDS", -10.0)
    _, abandoned = bucket.upload(b"first")
    final = bucket.put()
    with storage.get_session() as session:
        made = storage.create_generation(session, "words", "composer", 1.0, 48_000, 2, NAME)
        made.set_status("processing", None)
    assert find_orphans(bucket.store).orphans == ()
    with storage.get_session() as session:
        session.get(storage.Generation, made.id).set_status("failed", None)
    row(final)
    (one,) = find_orphans(bucket.store).orphans
    assert (one.kind, one.path) == (OrphanKind.UNCLAIMED, abandoned)


def test_an_attempt_cannot_replace_the_file_of_another(bucket):
    first, second = bucket.put(b"first"), bucket.put(b"second")
    assert first != second
    assert b"".join(bucket.store.read_range(first)) == b"first"
    bucket.store.delete_upload(second)
    assert bucket.names() == [first]


def test_an_interrupted_upload_leaves_no_file(bucket, line, bucket_server, monkeypatch):
    line.cut_after = 500_000
    with pytest.raises(OutputError, match=r"cannot be written: .*AWS_"):
        bucket.upload(os.urandom(2_000_000))
    line.cut_after = None
    assert bucket.names() == []
    assert bucket.put()


def test_the_error_of_an_unreachable_server_names_the_settings(bucket, line):
    line.close()
    for ask in (bucket.store.check, lambda: list(bucket.store.list()), bucket.upload):
        with pytest.raises(StoreAwayError, match=r"DGX_MUSIC_FILE_STORE .* AWS_"):
            ask()
    try_remove_leftovers(bucket.store, NAME)


def test_a_failed_download_leaves_no_file(bucket, monkeypatch):
    monkeypatch.setattr(bucket_module, "PIECE", 4096)
    final = bucket.put()
    pieces = bucket.store.read_range(final)
    next(pieces)
    # No attempt replaces a file. Here the reader would get parts of two files.
    draft = bucket.outputs / "x"
    draft.write_bytes(b"y" * len(MUSIC))
    bucket.store.upload(draft, final, digest(b"y" * len(MUSIC)))
    with pytest.raises(OutputError, match="cannot be read"):
        list(pieces)
    with pytest.raises(OutputError, match=r"SHA-256 .* is damaged or was replaced"):
        bucket.store.local_copy(final, digest(MUSIC))
    assert list((bucket.outputs / ".dgx-cache").iterdir()) == []


def test_a_copy_is_downloaded_once(bucket, line):
    final = bucket.put()
    path = bucket.store.local_copy(final, digest(MUSIC))
    assert path.suffix == ".wav"
    line.close()
    assert bucket.store.local_copy(final, digest(MUSIC)) == path


def test_the_cache_deletes_the_oldest_copies_over_its_limit(bucket_url, outputs, monkeypatch):
    small = Shelf(BucketStore(bucket_url, scratch=outputs, cache_bytes=25_000), outputs)
    monkeypatch.setattr(cache_module, "IN_USE_SECONDS", 30.0)
    copies = []
    for number in range(4):
        data = bytes([number]) * 10_000
        copies.append(small.store.local_copy(small.put(data, f"{DAY}/{number}.wav"), digest(data)))
        os.utime(copies[-1], (1_000_000 + number, 1_000_000 + number))
    assert [path.exists() for path in copies] == [False, False, True, True]


def test_a_missing_bucket_is_named(bucket_url, outputs):
    store = BucketStore("s3://no-such-bucket", scratch=outputs, cache_bytes=0, patience=0.5)
    with pytest.raises(OutputError, match="no bucket 'no-such-bucket'"):
        store.check()
    with pytest.raises(OutputError, match="no bucket 'no-such-bucket'"):
        Shelf(store, outputs).upload()


def test_the_doctor_checks_the_bucket(bucket_url, outputs):
    for url, verdict in ((bucket_url, "ok"), ("s3://no-such-bucket", "fail")):
        (finding,) = doctor._bucket(Settings(output_dir=outputs, file_store=url))
        assert (finding.name, finding.verdict) == ("files", verdict)
    assert doctor._bucket(Settings(output_dir=outputs)) == []


def test_without_the_library_the_error_names_the_extra_to_install(outputs, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    store = open_store(Settings(output_dir=outputs, file_store="s3://music"))
    assert store.display_path(NAME) == f"s3://music/{NAME}"
    with pytest.raises(SettingsError, match=r"pip install 'dgx-music\[s3\]'"):
        store.check()


def test_keys_are_read_from_the_env_file(bucket_url, outputs, tmp_path, monkeypatch):
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(
        f"DGX_MUSIC_FILE_STORE={bucket_url}/\nDGX_MUSIC_OUTPUT_DIR={outputs}\n"
        f"AWS_ENDPOINT_URL={endpoint}\nAWS_ACCESS_KEY_ID=key\nAWS_SECRET_ACCESS_KEY=secret\n"
    )
    store = open_store(load_settings())
    store.check()
    assert store.location == bucket_url


@pytest.mark.parametrize("url", ["music", "s3://", "s3://a/../b", "https://x.y/z", "s3://b//c"])
def test_a_url_that_is_no_bucket_is_refused(url, monkeypatch):
    monkeypatch.setenv("DGX_MUSIC_FILE_STORE", url)
    with pytest.raises(SettingsError, match="DGX_MUSIC_FILE_STORE: must be s3://bucket"):
        load_settings(None)


def test_the_folder_is_the_store_unless_a_bucket_is_named(outputs):
    assert open_store(Settings(output_dir=outputs)).location == str(outputs)
    with pytest.raises(OutputError, match="is not there"):
        open_store(Settings(output_dir=outputs / "none")).check()


def test_only_old_drafts_are_removed(outputs):
    old, young = (Path(draft_path(outputs / NAME, nonce)) for nonce in ("old", "young"))
    for draft in (old, young):
        draft.parent.mkdir(parents=True)
        draft.write_bytes(MUSIC)
    os.utime(old, (0, 0))
    assert remove_old_drafts(outputs, 3600) == 1
    assert not old.parent.exists()
    assert young.exists()
