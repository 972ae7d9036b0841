"""`dgx-music models install`: outcomes and refusals; the downloads are tested with a hub."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from services.cli.install import _describe_outcome
from services.generation.musicgen.catalogue import published_model
from services.generation.musicgen.checkpoint import checkpoints, install
from services.generation.musicgen.checkpoint.install import Installed

pytestmark = pytest.mark.integration

SMALL = published_model("musicgen-small")
COMMIT = "0123456789abcdef"


def install_as(monkeypatch, outcome, **facts):
    """Have the installation end as `outcome`, without a network."""
    calls = []

    def install_model(model, models_dir, show, *, revision):
        show(1, 2)
        calls.append((model.name, models_dir, revision))
        if isinstance(outcome, BaseException):
            raise outcome
        return Installed(models_dir / model.name, COMMIT, outcome, 5)

    monkeypatch.setattr(install, "install", install_model)
    monkeypatch.setattr(checkpoints, "missing_package", lambda: None)
    return calls


@pytest.mark.parametrize(
    ("outcome", "revision", "sentence"),
    [
        ("installed", COMMIT, "musicgen-small is installed, revision 0123456789ab"),
        ("repaired", COMMIT, "musicgen-small is repaired, revision 0123456789ab"),
        ("there already", COMMIT, "is installed and complete, revision 0123456789ab."),
        ("unverified", None, "move data/models away"),
        ("in the cache", COMMIT, "is used from your Hugging Face cache, revision 0123456789ab."),
    ],
)
def test_outcome_is_one_or_two_sentences(outcome, revision, sentence):
    done = Installed(Path("data/models"), revision, outcome, 2_350_000_000)
    assert sentence in _describe_outcome(SMALL, done, None)


def test_downloaded_size_is_stated():
    done = Installed(Path("data/models"), COMMIT, "installed", 2_350_000_000)
    assert "2.35 GB downloaded" in _describe_outcome(SMALL, done, COMMIT)


def test_small_model_is_the_default_and_its_folder_the_answer(home, monkeypatch):
    calls = install_as(monkeypatch, "installed")
    result = home.call("models", "install")
    models = home.path / "data" / "models"
    assert (result.returncode, result.stdout) == (0, f"{models}/musicgen-small\n")
    assert calls == [("musicgen-small", models, None)]
    assert "CC-BY-NC-4.0" in result.stderr


def test_json_has_an_object_for_each_model(home, monkeypatch):
    install_as(monkeypatch, "there already")
    result = home.call("models", "install", "small", "musicgen-melody", "--json")
    first, second = json.loads(result.stdout)
    assert first == {
        "name": "musicgen-small",
        "folder": str(home.path / "data" / "models" / "musicgen-small"),
        "repository": SMALL.repository,
        "revision": COMMIT,
        "outcome": "there already",
        "downloaded_bytes": 5,
    }
    assert second["name"] == "musicgen-melody"


def test_revision_is_passed_on(home, monkeypatch):
    calls = install_as(monkeypatch, "installed")
    home.call("models", "install", "--revision", "main")
    assert calls[0][2] == "main"


def test_interrupted_download_says_how_to_resume(home, monkeypatch):
    install_as(monkeypatch, KeyboardInterrupt())
    result = home.call("models", "install", "musicgen-melody")
    assert (result.returncode, result.stdout) == (130, "")
    assert result.stderr.endswith("Stopped. To resume: dgx-music models install musicgen-melody\n")


def test_unknown_model_is_refused_before_anything_is_downloaded(home, monkeypatch):
    calls = install_as(monkeypatch, "installed")
    result = home.call("models", "install", "musicgen-small", "musicgen-smal")
    assert (result.returncode, result.stdout, calls) == (4, "", [])
    assert "musicgen-small" in result.stderr


def test_missing_package_is_named_with_its_installation(home, monkeypatch):
    monkeypatch.setattr(checkpoints, "missing_package", lambda: "torch")
    result = home.call("models", "install", "small")
    assert (result.returncode, result.stdout) == (4, "")
    assert "torch is not installed. " in result.stderr
    assert "weights: ./just install-models musicgen-small\n" in result.stderr


def test_a_model_of_ones_own_is_added_with_its_licence(home):
    from tests.generation.musicgen.checkpoints import write_checkpoint

    write_checkpoint(home.path / "trained", "mono")
    result = home.call("models", "add", "tune", "trained", "--licence", "CC-BY-4.0")
    assert (result.returncode, result.stdout) == (0, "tune\n")
    models = {one["name"]: one for one in json.loads(home.call("models", "list", "--json").stdout)}
    assert models["tune"]["available"]
    assert models["tune"]["output_licence"] == "CC-BY-4.0"
    (row,) = query(home, "SELECT name, licence FROM models")
    assert row == ("tune", "CC-BY-4.0")
    again = home.call("models", "add", "tune", "trained", "--licence", "MIT", "--json")
    assert again.returncode == 2
    assert "--force" in json.loads(again.stdout)["error"]


def query(home, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(home.database)) as connection:
        return connection.execute(statement).fetchall()
