"""`dgx-music doctor`: its verdicts, and what it leaves behind."""

import json
import shutil
import sys

import pytest

from services import __version__, storage
from services.cli import doctor
from services.errors import OutputError
from services.generation import registry
from services.generation.musicgen.catalogue import MODELS
from services.generation.registry import EngineEntry, Registry
from services.library.installed_models import record_installed_model
from services.machine import open_files, space
from tests.generation.test_trial import FACTS, Tone

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))


def examine(home, code=0):
    result = home.call("doctor", "--json")
    assert (result.returncode, result.stderr) == (code, "")
    return {finding["name"]: finding for finding in json.loads(result.stdout)}


def install_engines(monkeypatch, **reasons):
    entries = {
        name: EngineEntry(FACTS, Tone, lambda reason=reason: reason)
        for name, reason in reasons.items()
    }
    monkeypatch.setattr(registry, "default_registry", lambda _settings: Registry(entries))


def test_healthy_machine_passes_and_stays_unchanged(home):
    found = examine(home)
    assert all(list(finding) == ["name", "verdict", "detail"] for finding in found.values())
    assert found["dgx-music"]["detail"] == __version__
    assert found["engine composer"]["verdict"] == "ok"
    assert "does not exist yet" in found["database"]["detail"]
    assert not any(home.path.iterdir())


def test_text_has_a_line_for_each_finding(home):
    lines = home.call("doctor").stdout.splitlines()
    assert lines[0] == f"ok    dgx-music         {__version__}"
    assert len(lines) == len(examine(home))


def test_database_is_described_once_it_exists(home):
    home.call("db", "init")
    detail = examine(home)["database"]["detail"]
    assert detail.startswith(f"{home.database}: sqlite ")
    assert "revision" in detail


def test_invalid_setting_is_a_failure_by_itself(home):
    home.environment["DGX_MUSIC_API_PORT"] = "loud"
    found = examine(home, code=1)
    assert list(found) == ["dgx-music", "python", "settings"]
    assert found["settings"]["verdict"] == "fail"
    assert "DGX_MUSIC_API_PORT" in found["settings"]["detail"]


def test_file_that_is_no_database_is_a_failure(home):
    home.database.parent.mkdir()
    home.database.write_bytes(b"notes" * 1000)
    found = examine(home, code=1)["database"]
    assert found["verdict"] == "fail"
    assert "generations.db" in found["detail"]


def test_scarce_disk_space_is_a_warning(home):
    home.environment["DGX_MUSIC_DISK_LOW_BYTES"] = str(2**60)
    found = examine(home)["output"]
    assert found["verdict"] == "warn"
    assert "GiB free" in found["detail"]


def test_folder_that_cannot_be_written_is_a_failure(home, monkeypatch):
    # Permissions do not bind the superuser.
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    found = examine(home, code=1)["output"]
    assert found == {
        "name": "output",
        "verdict": "fail",
        "detail": f"{home.path} is not writable; set DGX_MUSIC_OUTPUT_DIR",
    }


def test_disk_that_cannot_be_read_is_a_failure(home, monkeypatch):
    def fail(_folder):
        raise OutputError("The disk does not respond.")

    monkeypatch.setattr(space, "free_bytes", fail)
    assert examine(home, code=1)["output"]["detail"] == "The disk does not respond."


def test_bucket_without_its_package_is_a_failure(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    home.environment["DGX_MUSIC_FILE_STORE"] = "s3://music/takes"
    found = examine(home, code=1)["files"]
    assert "pip install" in found["detail"]


def test_faulty_engine_is_a_warning_while_another_works(home, monkeypatch):
    install_engines(monkeypatch, good=None, bad="numba does not load.")
    tones = json.loads(home.call("doctor", "--json").stdout)
    verdicts = [
        (finding["verdict"], finding["detail"])
        for finding in tones
        if finding["name"] == f"engine {FACTS.name}"
    ]
    assert verdicts == [("ok", FACTS.description), ("warn", "numba does not load.")]


def test_machine_without_any_engine_fails(home, monkeypatch):
    install_engines(monkeypatch, bad="numba does not load.")
    assert examine(home, code=1)[f"engine {FACTS.name}"]["verdict"] == "fail"


def test_models_that_are_not_installed_are_listed(home):
    found = examine(home)["not installed"]
    assert found["verdict"] == "ok"
    assert "musicgen-small" in found["detail"]
    assert "dgx-music models list" in found["detail"]


@pytest.mark.parametrize(
    ("script", "verdict"),
    [("exit 9", "warn"), ("echo 'NVIDIA GB10, 122570 MiB, 580.95'", "ok"), (None, "ok")],
)
def test_broken_gpu_tool_is_a_warning(home, tmp_path, script, verdict):
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    assert examine(home)["gpu"]["verdict"] == verdict


def test_installed_model_is_listed_with_its_commit_until_its_folder_is_gone(home):
    folder = home.path / "data" / "models" / "musicgen-small"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"0" * 1000)
    storage.init_db(f"sqlite:///{home.database}")
    record_installed_model(
        MODELS["musicgen-small"].facts, folder, folder.parent, revision="0123456789abcdef"
    )
    storage.close_db()
    found = examine(home)["model musicgen-small"]
    assert found["verdict"] == "ok"
    assert "commit 0123456789ab" in found["detail"]
    assert "CC-BY-NC-4.0" in found["detail"]
    shutil.rmtree(folder)
    found = examine(home)["model musicgen-small"]
    assert found["verdict"] == "warn"
    assert "models install musicgen-small" in found["detail"]


def test_a_proxy_that_is_not_trusted_is_a_warning(home):
    def find_proxy():
        found = {one["name"]: one for one in json.loads(home.call("doctor", "--json").stdout)}
        return found.get("proxy")

    assert find_proxy() is None
    home.environment["DGX_MUSIC_API_ROOT_PATH"] = "/music"
    assert find_proxy()["verdict"] == "warn"
    assert "DGX_MUSIC_API_TRUSTED_PROXIES" in find_proxy()["detail"]
    home.environment["DGX_MUSIC_API_TRUSTED_PROXIES"] = "127.0.0.1"
    assert find_proxy()["verdict"] == "ok"


@pytest.mark.parametrize(("hard", "verdict"), [(1024, "warn"), (1 << 20, "ok")])
def test_few_open_files_are_a_warning(home, monkeypatch, hard, verdict):
    monkeypatch.setattr(open_files.resource, "getrlimit", lambda _kind: (1024, hard))
    found = examine(home)["open files"]
    assert found["verdict"] == verdict
    assert f"may open {hard}" in found["detail"]
    assert ("LimitNOFILE" in found["detail"]) == (verdict == "warn")
