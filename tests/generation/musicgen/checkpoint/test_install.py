from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from services.errors import CheckpointError, OutputError
from services.generation.musicgen.checkpoint.checkpoints import find_checkpoint, open_checkpoint
from services.generation.musicgen.checkpoint.install import install
from services.generation.weights.hub import Hub
from tests.conftest import LIMIT_SECONDS, disk_of, wait_until
from tests.generation.musicgen.checkpoints import write_checkpoint
from tests.generation.musicgen.hub_server import REPOSITORY, REVISION, HubServer
from tests.generation.musicgen.run_install import TINY

ROOT = Path(__file__).parents[4]
NO_WAITS = (0.0, 0.0)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """The files of the repository: more than are needed."""
    folder: Path = tmp_path_factory.mktemp("published")
    write_checkpoint(folder)
    (folder / "README.md").write_text("# MusicGen\n")
    (folder / "pytorch_model.bin").write_bytes(b"pickled" * 20_000)
    (folder / "spiece.model").write_bytes(b"sentences")
    return folder


@pytest.fixture
def server(published, tmp_path) -> Iterator[HubServer]:
    server = HubServer(Path(shutil.copytree(published, tmp_path / "repository")))
    yield server
    server.close()


@pytest.fixture
def models(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no cache"))
    return tmp_path / "models"


def hub(server: HubServer) -> Hub:
    return Hub(server.url, NO_WAITS)


def put(server: HubServer, models: Path, **more: object):
    return install(TINY, models, hub=hub(server), **more)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


WANTED = {
    "config.json",
    "generation_config.json",
    "installed.json",
    "model.safetensors",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def test_an_installation_has_the_needed_files_and_no_pickled_ones(server, models):
    heard: list[tuple[int, int]] = []
    done = install(TINY, models, lambda *heard_now: heard.append(heard_now), hub=hub(server))
    assert (done.outcome, done.folder) == ("installed", models / "musicgen-tiny")
    assert names(done.folder) == WANTED
    assert names(models) == {"musicgen-tiny", ".musicgen-tiny.lock"}
    for name in WANTED - {"installed.json"}:
        assert (done.folder / name).read_bytes() == (server.folder / name).read_bytes()
    found = find_checkpoint(TINY, models)
    assert (found.source, found.revision) == ("models folder", REVISION)
    have, total = zip(*heard, strict=True)
    assert list(have) == sorted(have)
    assert (
        have[-1]
        == total[-1]
        == sum((done.folder / n).stat().st_size for n in WANTED - {"installed.json"})
    )


def test_shards_are_installed_with_their_index(server, models):
    for path in server.folder.glob("*.safetensors"):
        path.unlink()
    write_checkpoint(server.folder, shards=3)
    (server.folder / "model.safetensors").unlink(missing_ok=True)
    done = put(server, models)
    assert len(list(done.folder.glob("model-*.safetensors"))) == 3
    assert open_checkpoint(done.folder).geometry == TINY.geometry


def test_a_second_installation_downloads_nothing(server, models):
    put(server, models)
    server.sent.clear()
    done = put(server, models)
    assert (done.outcome, done.bytes, server.sent) == ("there already", 0, [])


def test_a_model_in_the_cache_of_the_user_is_used_from_there(server, models, monkeypatch, tmp_path):
    snapshot = tmp_path / "hub" / "models--nobody--musicgen-tiny" / "snapshots" / REVISION
    shutil.copytree(server.folder, snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    done = put(server, models)
    assert (done.outcome, done.folder, server.sent) == ("in the cache", snapshot, [])


def test_a_folder_without_a_record_counts_as_unverified(server, models):
    shutil.copytree(server.folder, models / "musicgen-tiny")
    done = put(server, models)
    assert (done.outcome, done.folder) == ("unverified", models / "musicgen-tiny")
    assert server.sent == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"),
        lambda path: path.write_bytes(path.read_bytes()[:1000]),
        lambda path: path.unlink(),
    ],
    ids=["a bit", "cut off", "gone"],
)
def test_a_damaged_model_is_repaired_by_downloading_only_the_damaged_file(server, models, damage):
    folder = put(server, models).folder
    damage(folder / "model.safetensors")
    server.sent.clear()
    done = put(server, models)
    assert done.outcome == "repaired"
    assert server.sent == [("model.safetensors", 0)]
    assert (folder / "model.safetensors").read_bytes() == (
        server.folder / "model.safetensors"
    ).read_bytes()
    assert names(models) == {"musicgen-tiny", ".musicgen-tiny.lock"}


@pytest.mark.parametrize("record", ["", "{}", '{"files": [1]}', '{"files": {"a": 1}}'])
def test_a_damaged_record_is_rewritten(server, models, record):
    folder = put(server, models).folder
    (folder / "installed.json").write_text(record)
    assert put(server, models).outcome == "repaired"
    assert json.loads((folder / "installed.json").read_text())["revision"] == REVISION


def test_a_user_link_is_replaced_and_its_target_stays(server, models, tmp_path):
    models.mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("dear")
    (models / "musicgen-tiny").symlink_to(tmp_path / "mine")
    done = put(server, models)
    assert not done.folder.is_symlink()
    assert names(tmp_path / "mine") == {"notes"}


def test_a_link_to_a_folder_of_links_is_replaced_by_files(server, models, tmp_path):
    # As the Hugging Face cache keeps them.
    snapshot, blobs = tmp_path / "cache" / "snapshots", tmp_path / "cache" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in WANTED - {"installed.json", "tokenizer.json"}:
        shutil.copy(server.folder / name, blobs / name)
        (snapshot / name).symlink_to(Path("..", "blobs", name))
    models.mkdir()
    (models / "musicgen-tiny").symlink_to(snapshot)
    done = put(server, models)
    assert done.outcome == "repaired"
    assert done.bytes == (server.folder / "tokenizer.json").stat().st_size
    shutil.rmtree(tmp_path / "cache")
    open_checkpoint(done.folder)


@pytest.mark.parametrize("damage", [True, False])
def test_the_leftover_of_an_interrupted_replacement_is_deleted(server, models, damage):
    folder = put(server, models).folder
    shutil.copytree(folder, models / ".musicgen-tiny.replaced.part")
    if damage:
        (folder / "model.safetensors").write_bytes(b"damaged")
    assert put(server, models).outcome == ("repaired" if damage else "there already")
    assert names(models) == {"musicgen-tiny", ".musicgen-tiny.lock"}


def test_the_download_of_a_model_with_a_longer_name_stays(server, models):
    large = replace(TINY, name=f"{TINY.name}-large")
    server.stop_at = threading.Event()
    outcomes = []
    one = threading.Thread(
        target=lambda: outcomes.append(install(large, models, hub=hub(server)).outcome)
    )
    one.start()
    assert server.stop_at.wait(LIMIT_SECONDS)
    server.stop_at = None
    assert put(server, models).outcome == "installed"
    server.go_on.set()
    one.join(LIMIT_SECONDS)
    assert outcomes == ["installed"]


def test_a_broken_connection_is_resumed(server, models):
    server.faults.cut_after = [1_000_000, 0, 2_000_000]
    put(server, models)
    starts = [start for name, start in server.sent if name == "model.safetensors"]
    assert starts == [0, 1_000_000, 1_000_000, 3_000_000]


def test_a_failed_installation_is_resumed(server, models):
    server.faults.cut_after = [1_500_000, 0, 0, 0]
    with pytest.raises(CheckpointError, match="try again"):
        put(server, models)
    assert names(models) == {".musicgen-tiny.lock", ".musicgen-tiny.0123456789ab.part"}
    with pytest.raises(CheckpointError, match="models install"):
        find_checkpoint(TINY, models)
    server.sent.clear()
    heard: list[int] = []
    done = install(TINY, models, lambda have, _total: heard.append(have), hub=hub(server))
    assert server.sent == [("model.safetensors", 1_500_000)]
    assert heard[0] > 1_500_000
    assert done.bytes == (server.folder / "model.safetensors").stat().st_size - 1_500_000


def test_a_damaged_partial_download_is_downloaded_again(server, models):
    server.faults.cut_after = [1_500_000, 0, 0, 0]
    with pytest.raises(CheckpointError):
        put(server, models)
    (partial,) = models.rglob("*.partial")
    partial.write_bytes(b"\0" * 1_500_000)
    heard: list[int] = []
    done = install(TINY, models, lambda have, _total: heard.append(have), hub=hub(server))
    assert open_checkpoint(done.folder)
    assert heard[-1] == max(heard)


def test_a_server_without_ranges_sends_the_whole_file_again(server, models):
    server.faults.cut_after = [1_000_000]
    server.faults.no_ranges = True
    heard: list[int] = []
    done = install(TINY, models, lambda have, _total: heard.append(have), hub=hub(server))
    assert open_checkpoint(done.folder)
    wanted = sum((done.folder / name).stat().st_size for name in WANTED - {"installed.json"})
    assert heard[-1] == wanted


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_wrong_byte_is_detected(server, models, name):
    server.faults.wrong_byte_in = {name}
    with pytest.raises(CheckpointError, match=f"sent {name} .* another content"):
        put(server, models)
    assert "musicgen-tiny" not in names(models)
    assert not list(models.rglob(name))
    assert not list(models.rglob("*.partial"))
    server.faults.wrong_byte_in = set()
    assert put(server, models).outcome == "installed"


@pytest.mark.parametrize("status", [404, 403, 500, 503])
def test_an_error_of_the_hub_is_reported_with_its_status(server, models, status):
    server.faults.status = [status] * 20
    with pytest.raises(CheckpointError, match=str(status)):
        put(server, models)


def test_a_login_page_instead_of_the_hub_is_reported(server, models):
    server.faults.html = True
    with pytest.raises(CheckpointError, match="login"):
        put(server, models)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"revision": "f" * 40}, "no revision ffff"),
        ({"repository": "nobody/nothing"}, "no repository nobody/nothing"),
    ],
)
def test_a_missing_repository_or_revision_is_named(server, models, change, word):
    with pytest.raises(CheckpointError, match=word):
        install(replace(TINY, **change), models, hub=hub(server))


def test_another_commit_can_be_installed(server, models):
    lost = replace(TINY, revision="f" * 40)
    done = install(lost, models, hub=hub(server), revision="main")
    assert done.revision == REVISION


def test_without_a_pinned_commit_the_newest_is_installed_and_recorded(server, models):
    done = install(replace(TINY, revision=None), models, hub=hub(server))
    assert done.revision == REVISION
    record = json.loads((done.folder / "installed.json").read_text())
    assert (record["repository"], record["revision"]) == (REPOSITORY, REVISION)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_repository_without_what_is_needed_is_refused(server, models, name):
    (server.folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"no {name}"):
        put(server, models)


def test_a_repository_of_another_model_is_refused_before_its_weights_come(server, models):
    other = replace(TINY, geometry=replace(TINY.geometry, layers=3))
    with pytest.raises(CheckpointError, match="another model"):
        install(other, models, hub=hub(server))
    assert not any(name == "model.safetensors" for name, _ in server.sent)


def test_an_unreachable_hub_is_reported(models):
    with pytest.raises(CheckpointError, match="cannot be reached"):
        install(TINY, models, hub=Hub("http://127.0.0.1:9", ()))


def test_a_second_installation_of_a_model_at_once_is_refused(server, models):
    server.stop_at = threading.Event()
    first = threading.Thread(target=lambda: put(server, models))
    first.start()
    assert server.stop_at.wait(LIMIT_SECONDS)
    with pytest.raises(CheckpointError, match="Another process is installing"):
        put(server, models)
    server.stop_at = None
    server.go_on.set()
    first.join()
    assert find_checkpoint(TINY, models)


@pytest.fixture
def small_disk(models) -> Iterator[Path]:
    """A models folder on its own disk of 8 MiB."""
    with disk_of(models, 8) as disk:
        yield disk


def test_a_disk_without_space_is_reported_before_the_download(server, small_disk):
    with pytest.raises(OutputError, match=r"GiB free.*DGX_MUSIC_MODELS_DIR"):
        put(server, small_disk)
    assert not any(name == "model.safetensors" for name, _ in server.sent)


def test_a_download_resumes_after_the_disk_was_full(server, small_disk, monkeypatch):
    # Other programs fill the disk after the space was checked.
    monkeypatch.setattr("services.generation.musicgen.checkpoint.install._SPARE_BYTES", 0)
    monkeypatch.setattr(
        "services.generation.musicgen.checkpoint.install.free_bytes", lambda _folder: 1 << 40
    )
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * (5 << 20))
    with pytest.raises(OutputError, match="No space left on device"):
        put(server, small_disk)
    assert not (small_disk / "musicgen-tiny").exists()
    ballast.unlink()
    assert put(server, small_disk).outcome == "installed"
    assert [start for name, start in server.sent if name == "model.safetensors"][-1] > 0


class Command:
    """Runs `dgx-music models ...` in its own process, in an empty folder."""

    def __init__(self, folder: Path, server: HubServer) -> None:
        self.folder = folder
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("DGX_MUSIC_")
        } | {
            "DGX_MUSIC_HOME": str(folder),
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(folder / "hf"),
            "PYTHONPATH": str(ROOT),
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.generation.musicgen.run_install", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=LIMIT_SECONDS)
        return process.returncode, out, err


@pytest.fixture
def command(tmp_path, server) -> Command:
    (tmp_path / "home").mkdir()
    return Command(tmp_path / "home", server)


def test_the_command_shows_the_licence_prints_the_folder_and_records_the_model(command):
    code, out, err = command.run("models", "install", "tiny")
    assert (code, out) == (0, f"{command.folder}/data/models/musicgen-tiny\n")
    assert "CC-BY-NC-4.0" in err
    assert "non-commercial" in err
    assert REVISION[:12] in err
    with closing(sqlite3.connect(command.folder / "data" / "generations.db")) as database:
        query = "SELECT name, revision, licence, path, size_bytes > 0 FROM models"
        recorded = database.execute(query).fetchall()
    assert recorded == [("musicgen-tiny", REVISION, "CC-BY-NC-4.0", "musicgen-tiny", 1)]
    code, out, err = command.run("models", "install", "musicgen-tiny", "--json")
    assert code == 0
    assert "CC-BY-NC-4.0" in err
    assert json.loads(out)[0]["outcome"] == "there already"


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_leaves_a_download_that_the_next_one_resumes(command, server, stop):
    server.stop_at = threading.Event()
    process = command.start("models", "install", "musicgen-tiny")
    assert server.stop_at.wait(LIMIT_SECONDS)
    models = command.folder / "data" / "models"
    wait_until(
        lambda: (
            any(path.stat().st_size > 1 << 20 for path in models.rglob("*.partial"))
            or process.poll() is not None
        )
    )
    assert process.poll() is None
    process.send_signal(stop)
    _, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 130
    assert "To resume: dgx-music models install musicgen-tiny" in err
    assert "Traceback" not in err
    assert not (models / "musicgen-tiny").exists()
    server.stop_at = None
    server.go_on.set()
    server.sent.clear()
    assert put(server, models).outcome == "installed"
    ((name, start),) = server.sent
    assert name == "model.safetensors"
    assert start >= 1 << 20


def test_an_unknown_name_is_refused_with_a_suggestion(command, server):
    code, out, err = command.run("models", "install", "musicgen-tinny")
    assert (code, out, server.sent) == (4, "", [])
    assert "'musicgen-tiny'" in err


def test_nothing_is_downloaded_in_offline_mode(command, server):
    command.environment["HF_HUB_OFFLINE"] = "1"
    code, _, err = command.run("models", "install", "musicgen-tiny")
    assert code == 4
    assert "HF_HUB_OFFLINE" in err
    assert server.sent == []


def test_another_revision_replaces_the_installed_one(server, models):
    put(server, models)
    record = models / "musicgen-tiny" / "installed.json"
    record.write_text(record.read_text().replace(REVISION, "e" * 40))
    done = put(server, models, revision=REVISION)
    assert (done.outcome, done.revision, done.bytes) == ("repaired", REVISION, 0)


def test_intact_files_are_copied_where_links_are_impossible(server, models, monkeypatch):
    folder = put(server, models).folder
    (folder / "config.json").write_text("{}")

    def refuse_link(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse_link)
    server.sent.clear()
    assert put(server, models).outcome == "repaired"
    assert [name for name, _ in server.sent] == ["config.json"]
    assert open_checkpoint(folder)


def test_a_damaged_index_of_shards_is_refused(server, models):
    (server.folder / "model.safetensors").unlink()
    (server.folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b"}}')
    with pytest.raises(CheckpointError, match=r"index\.json of nobody/musicgen-tiny: it names"):
        put(server, models)


@pytest.mark.parametrize("config", ['{"model_type": "t5"}', "[]"])
def test_a_repository_of_another_kind_is_refused(server, models, config):
    (server.folder / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        put(server, models)
    assert "model.safetensors" not in [name for name, _ in server.sent]


def test_an_unwritable_models_folder_is_reported_with_the_setting(server, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match=r"cannot be written: .* Set DGX_MUSIC_MODELS_DIR"):
        put(server, tmp_path / "file" / "models")


def test_the_record_has_a_digest_for_every_file(server, models):
    folder = put(server, models).folder
    record = json.loads((folder / "installed.json").read_text())
    assert record["files"].keys() == WANTED - {"installed.json"}
    for name, about in record["files"].items():
        content = (folder / name).read_bytes()
        assert about == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
