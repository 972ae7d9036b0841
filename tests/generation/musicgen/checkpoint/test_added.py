"""Models of one's own: added, listed, refused, and played."""

import os
import shutil

import pytest

from services.config import Settings
from services.errors import CheckpointError, InvalidRequestError
from services.generation.engine import GenerationParams
from services.generation.musicgen.checkpoint.added import add_model, list_added
from services.generation.musicgen.checkpoint.checkpoints import why_unavailable
from services.generation.musicgen.engine import MusicGenEngine
from services.generation.registry import default_registry

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(written, tmp_path):
    _, checkpoint = written("mono")
    return shutil.copytree(checkpoint.folder, tmp_path / "trained")


@pytest.fixture
def models_dir(tmp_path):
    return tmp_path / "models"


def test_an_added_model_makes_music_under_the_licence_of_its_owner(folder, models_dir):
    added = add_model("my-tune", folder, models_dir, licence="CC-BY-4.0")
    (listed,) = list_added(models_dir)
    assert listed == added
    settings = Settings(_env_file=None, models_dir=models_dir, use_gpu=False)
    entry = default_registry(settings).resolve("my-tune")
    assert entry.facts.output_licence == "CC-BY-4.0"
    assert entry.facts.version == f"1+{added.revision[:8]}"
    engine = MusicGenEngine.load(listed, settings)
    try:
        assert engine.facts == entry.facts
        params = GenerationParams(prompt="a tune", duration_seconds=1.0, seed=3)
        take = engine.render(params, lambda *_: None, lambda: False)
    finally:
        engine.close()
    assert take.audio.shape == (1, 32_000)


def test_other_weights_are_another_version(folder, models_dir, written):
    first = add_model("tune", folder, models_dir, licence="MIT")
    with pytest.raises(InvalidRequestError, match="--force"):
        add_model("tune", folder, models_dir, licence="MIT")
    _, stereo = written("stereo")
    second = add_model("tune", stereo.folder, models_dir, licence="MIT", force=True)
    assert second.revision != first.revision
    assert second.geometry == stereo.geometry
    assert why_unavailable(second, models_dir) is None


@pytest.mark.parametrize(
    "name",
    ["musicgen-small", "small", "composer", "auto", "../x", "My", "", "x" * 65, "x.added.json"],
)
def test_a_name_that_is_taken_or_no_name_is_refused(folder, models_dir, name):
    with pytest.raises(InvalidRequestError, match="cannot have the name"):
        add_model(name, folder, models_dir, licence="MIT")
    assert not models_dir.exists()


def test_what_is_no_checkpoint_is_refused_and_leaves_nothing(folder, models_dir):
    with pytest.raises(InvalidRequestError, match="SPDX"):
        add_model("tune", folder, models_dir, licence="mine;\n")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        add_model("tune", folder, models_dir, licence="MIT")
    assert not models_dir.exists()


def test_a_configuration_that_is_no_file_is_refused_at_once(folder, models_dir):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json is not a file"):
        add_model("tune", folder, models_dir, licence="MIT")


def test_a_configuration_without_a_decoder_is_refused_as_that(folder, models_dir):
    (folder / "config.json").write_text('{"model_type": "musicgen", "decoder": 5}')
    with pytest.raises(CheckpointError, match="it describes no decoder"):
        add_model("tune", folder, models_dir, licence="MIT")


def test_a_folder_of_another_model_is_not_replaced(folder, models_dir):
    (models_dir / "tune").mkdir(parents=True)
    with pytest.raises(InvalidRequestError, match="folder of its own"):
        add_model("tune", folder, models_dir, licence="MIT")
    with pytest.raises(CheckpointError, match="cannot be read"):
        add_model("tune", models_dir / "missing", models_dir, licence="MIT")


def test_a_model_is_added_again_by_its_own_link(folder, models_dir):
    first = add_model("tune", folder, models_dir, licence="MIT")
    again = add_model("tune", models_dir / "tune", models_dir, licence="CC0-1.0", force=True)
    assert again.revision == first.revision
    assert (models_dir / "tune").resolve() == folder
    assert why_unavailable(again, models_dir) is None


def test_auto_never_takes_an_added_model(folder, models_dir):
    add_model("tune", folder, models_dir, licence="MIT")
    registry = default_registry(Settings(_env_file=None, models_dir=models_dir))
    assert registry.resolve("auto").facts.name == "composer"
    assert registry.resolve("tune").facts.name == "tune"


def test_a_model_whose_folder_is_gone_says_how_to_add_it_again(folder, models_dir):
    added = add_model("tune", folder, models_dir, licence="MIT")
    shutil.rmtree(folder)
    assert "models add tune FOLDER --licence 'MIT' --force" in why_unavailable(added, models_dir)
    assert list(list_added(models_dir)) == [added]


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"sha256": "a", "geometry": 3}'])
def test_a_damaged_record_hides_no_other_model(folder, models_dir, record):
    added = add_model("tune", folder, models_dir, licence="MIT")
    (models_dir / "broken.added.json").write_text(record)
    assert list(list_added(models_dir)) == [added]
