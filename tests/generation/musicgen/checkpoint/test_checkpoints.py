from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from services.errors import CheckpointError
from services.generation.musicgen.catalogue import MODELS, PublishedModel
from services.generation.musicgen.checkpoint import checkpoints
from services.generation.musicgen.checkpoint.checkpoints import (
    find_checkpoint,
    open_checkpoint,
    why_unavailable,
)
from services.generation.musicgen.checkpoint.layout import read_geometry
from tests.generation.musicgen.checkpoints import write_checkpoint, write_weights

SHARED = [HealthCheck.function_scoped_fixture]


@pytest.fixture
def folder(written, tmp_path) -> Path:
    """A copy of a checkpoint, for a test to damage."""
    _, checkpoint = written("mono")
    return Path(shutil.copytree(checkpoint.folder, tmp_path / "musicgen-tiny"))


@pytest.fixture
def tiny(written) -> PublishedModel:
    """The catalogue entry of the tiny checkpoint."""
    _, checkpoint = written("mono")
    return replace(
        MODELS["musicgen-small"],
        name="musicgen-tiny",
        repository="nobody/musicgen-tiny",
        revision="0" * 40,
        geometry=checkpoint.geometry,
    )


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no cache"))


def refuse(folder: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    for word in words:
        assert word in str(caught.value)


def edit_config(folder: Path, *path: str, value: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    inner = config
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))


def edit_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors") | changes
    write_weights(folder, {name: value for name, value in tensors.items() if value is not None})


@pytest.mark.parametrize("kind", ["mono", "stereo", "melody", "stereo-melody"])
def test_every_layout_is_recognised(written, kind):
    model, checkpoint = written(kind)
    shape, decoder = checkpoint.geometry, model.config.decoder
    assert (shape.layers, shape.hidden, shape.ffn) == (2, 64, 256)
    assert shape.codebooks == decoder.num_codebooks
    assert shape.channels == decoder.audio_channels
    assert shape.cross_attention == (not kind.endswith("melody"))


def test_shards_are_one_checkpoint(tmp_path, written):
    write_checkpoint(tmp_path, shards=3)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    assert open_checkpoint(tmp_path).tensors.keys() == written("mono")[1].tensors.keys()
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    refuse(tmp_path, "model-00002-of-00003.safetensors")


@pytest.mark.parametrize(
    "index",
    ["", "[]", "{}", '{"weight_map": {"a": "../../etc/passwd"}}', '{"weight_map": {"a": 1}}'],
)
def test_an_invalid_index_is_refused(folder, index):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    refuse(folder, "model.safetensors.index.json")


def test_a_deeply_nested_configuration_is_refused(folder):
    (folder / "config.json").write_text("[" * 200_000)
    refuse(folder, "it is not JSON")


def test_an_unreadable_models_folder_is_reported(tmp_path):
    model = MODELS["musicgen-small"]
    reason = why_unavailable(model, tmp_path / ("a" * 300))
    assert reason is not None
    assert reason.endswith("cannot be read: File name too long.")


def test_an_index_with_a_missing_tensor_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    weight_map = {"some.tensor": "a.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refuse(folder, "some.tensor")


@settings(max_examples=40, suppress_health_check=SHARED)
@given(data=st.data())
def test_a_truncated_file_is_refused(folder, data):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    length = data.draw(st.integers(0, 400) | st.integers(0, len(whole) - 1))
    try:
        path.write_bytes(whole[:length])
        refuse(folder, "model.safetensors")
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "state_dict.bin", "pytorch_model-00001-of-2.bin"]
)
def test_weights_that_are_only_pickled_are_refused(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    refuse(folder, "pickled", "model.safetensors")


def test_a_folder_without_weights_or_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    refuse(folder, "tokenizer.json")
    (folder / "model.safetensors").unlink()
    refuse(folder, "no model.safetensors")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model_type": "t5"}', "\x00\x01"])
def test_an_invalid_configuration_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    refuse(folder, "config.json")


@pytest.mark.parametrize("value", [0, -1, "64", None, 1.5, True, 63])
def test_an_invalid_shape_is_refused(folder, value):
    edit_config(folder, "decoder", "hidden_size", value=value)
    refuse(folder, "config.json")


def test_a_checkpoint_without_a_codec_is_refused(folder):
    edit_config(folder, "audio_encoder", value=None)
    refuse(folder, "audio_encoder")


def test_missing_values_have_the_defaults_of_transformers():
    shape = read_geometry({"model_type": "musicgen", "decoder": {}})
    assert shape == MODELS["musicgen-small"].geometry


@pytest.mark.parametrize(
    "name", ["decoder.lm_heads.3.weight", "decoder.model.decoder.layers.1.fc2.weight"]
)
def test_a_missing_tensor_of_the_decoder_is_named(folder, name):
    edit_tensors(folder, **{name: None})
    refuse(folder, name)


def test_a_tensor_of_another_shape_is_named_with_its_file(folder):
    edit_tensors(folder, **{"decoder.lm_heads.0.weight": torch.zeros(2048, 32)})
    refuse(folder, "decoder.lm_heads.0.weight", "model.safetensors", "[2048, 32]", "[2048, 64]")


def test_an_unexpected_tensor_is_named(folder):
    edit_tensors(folder, **{"decoder.model.decoder.layers.2.fc1.weight": torch.zeros(256, 64)})
    refuse(folder, "layers.2.fc1")


def test_a_configuration_of_another_model_is_refused(folder):
    edit_config(folder, "decoder", "num_hidden_layers", value=3)
    refuse(folder, "layers.2.")


@pytest.mark.usefixtures("empty_cache")
def test_a_missing_model_names_the_command(tmp_path):
    for name, model in MODELS.items():
        with pytest.raises(CheckpointError, match=f"dgx-music models install {name}`"):
            find_checkpoint(model, tmp_path)


def test_a_damaged_model_names_the_command(folder, tiny):
    (folder / "model.safetensors").write_bytes(b"")
    assert "`dgx-music models install musicgen-tiny`" in (
        why_unavailable(tiny, folder.parent) or ""
    )


def test_a_complete_model_is_available(folder, tiny):
    assert why_unavailable(tiny, folder.parent) is None
    found = find_checkpoint(tiny, folder.parent)
    assert (found.name, found.source, found.revision) == ("musicgen-tiny", "models folder", None)


def test_a_folder_of_another_model_is_refused(folder, tiny):
    other = replace(tiny, geometry=MODELS["musicgen-small"].geometry)
    with pytest.raises(CheckpointError, match=r"2 layers of 64 .* 24 layers of 1024"):
        find_checkpoint(other, folder.parent)


def test_without_the_packages_the_recipe_is_named(folder, tiny, monkeypatch):
    monkeypatch.setattr(checkpoints, "_EXTRA", ("torch", "no_such_package"))
    reason = why_unavailable(tiny, folder.parent)
    assert reason == "no_such_package is not installed: `./just install-models musicgen-tiny`"


LOOK = """
import sys, json
from pathlib import Path
from services.generation.musicgen.catalogue import MODELS
from services.generation.musicgen.catalogue import PublishedModel
from services.generation.musicgen.checkpoint.checkpoints import find_checkpoint
from services.generation.musicgen.checkpoint.checkpoints import open_checkpoint
from dataclasses import replace
geometry = open_checkpoint(Path(sys.argv[1])).geometry
model = replace(MODELS["musicgen-small"], name="musicgen-tiny", geometry=geometry,
                repository="nobody/musicgen-tiny", revision="0" * 40)
found = find_checkpoint(model, Path("nowhere"))
print(json.dumps([found.source, found.revision, "torch" in sys.modules]))
"""


@pytest.mark.parametrize("revision", ["0" * 40, "1" * 40])
def test_the_hugging_face_cache_is_searched_without_torch(folder, tmp_path, revision):
    # The pinned revision, or the `main` of the time of the download.
    home = tmp_path / "home of hugging face"
    repository = home / "hub" / "models--nobody--musicgen-tiny"
    shutil.copytree(folder, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    result = subprocess.run(
        [sys.executable, "-c", LOOK, str(folder)],
        env=os.environ | {"HF_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout) == ["Hugging Face cache", revision, False]


def test_an_incomplete_cached_commit_does_not_hide_a_complete_one(
    folder, tiny, tmp_path, monkeypatch
):
    # Another program may have downloaded the tokenizer only.
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    repository = cache / "models--nobody--musicgen-tiny"
    pinned, newest = repository / "snapshots" / ("0" * 40), repository / "snapshots" / ("1" * 40)
    pinned.mkdir(parents=True)
    shutil.copy(folder / "config.json", pinned)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(newest.name)
    with pytest.raises(CheckpointError, match=r"no model\.safetensors.*models install"):
        find_checkpoint(tiny, tmp_path / "nowhere")
    shutil.copytree(folder, newest)
    assert find_checkpoint(tiny, tmp_path / "nowhere").folder == newest
