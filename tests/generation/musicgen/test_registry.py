from dataclasses import replace

import pytest
import soundfile

from services.config import Settings
from services.errors import EngineUnavailableError
from services.generation.musicgen import catalogue
from services.generation.musicgen.checkpoint.checkpoints import open_checkpoint
from services.generation.registry import AUTO, default_registry
from services.jobs.making import JobMaker
from services.jobs.models import GenerationRequest
from services.jobs.service import MusicService
from tests.generation.musicgen.checkpoints import write_checkpoint

SMALL = "musicgen-small"


@pytest.fixture
def models_dir(tmp_path, monkeypatch):
    """A models folder with a tiny checkpoint as musicgen-small."""
    folder = tmp_path / "models"
    write_checkpoint(folder / SMALL)
    tiny = replace(catalogue.MODELS[SMALL], geometry=open_checkpoint(folder / SMALL).geometry)
    monkeypatch.setattr(catalogue, "MODELS", {**catalogue.MODELS, SMALL: tiny})
    monkeypatch.setenv("DGX_MUSIC_MODELS_DIR", str(folder))
    monkeypatch.setenv("DGX_MUSIC_USE_GPU", "false")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder


def test_auto_is_the_composer_without_weights(tmp_path):
    assert default_registry(Settings(models_dir=tmp_path)).resolve(AUTO).facts.name == "composer"


def test_auto_is_musicgen_if_its_weights_are_installed(models_dir):
    assert default_registry(Settings()).resolve(AUTO).facts.name == SMALL


def test_a_model_without_weights_names_the_command(tmp_path):
    with pytest.raises(EngineUnavailableError, match="dgx-music models install musicgen-medium"):
        default_registry(Settings(models_dir=tmp_path)).resolve("musicgen-medium")


def test_every_musicgen_model_states_the_licence_of_its_output():
    facts = [
        one.facts for one in default_registry(Settings()) if one.facts.name.startswith("musicgen")
    ]
    assert len(facts) == len(catalogue.MODELS)
    assert {one.output_licence for one in facts} == {"CC-BY-NC-4.0"}
    assert {one.name for one in facts if one.takes_melody} == {
        name for name in catalogue.MODELS if "melody" in name
    }
    assert all(one.takes_continuation for one in facts)


def test_a_take_of_musicgen_is_mastered_and_stored_with_its_licence(models_dir, tmp_path):
    settings = Settings(
        database_url=f"sqlite:///{tmp_path}/music.db",
        output_dir=tmp_path / "outputs",
        models_dir=models_dir,
    )
    service = MusicService(settings, default_registry(settings))
    asked = service.check(GenerationRequest(prompt="a beat with bass", duration=1.5, seed=3))
    job = JobMaker(service).make(asked, lambda *_: None, lambda: False)
    assert job.model == SMALL
    assert job.metadata["licence"] == "CC-BY-NC-4.0"
    assert job.metadata["seed"] == 3
    assert "float32" in job.metadata["backend"] or "int8" in job.metadata["backend"]
    assert job.metadata["integrated_lufs"] == pytest.approx(-16.0, abs=0.1)
    found = soundfile.info(service.local_copy(job.job_id))
    assert (found.samplerate, found.channels, found.frames) == (32_000, 1, 48_000)
