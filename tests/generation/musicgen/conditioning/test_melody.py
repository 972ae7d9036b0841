from __future__ import annotations

import importlib
import json
import sys
import types
from typing import Any

import pytest
import torch

from services.errors import CheckpointError
from services.generation.musicgen.checkpoint.checkpoints import open_checkpoint
from services.generation.musicgen.checkpoint.parts import open_weights
from services.generation.musicgen.conditioning.melody import (
    ChromaSettings,
    MelodyConditioner,
    chroma,
)
from services.generation.musicgen.conditioning.text import TextEncoder
from tests.generation.musicgen.checkpoints import CHROMA_LENGTH, write_checkpoint

RATE = 32_000
EXTRACTOR = "transformers.models.musicgen_melody.feature_extraction_musicgen_melody"


class Spectrogram(torch.nn.Module):
    """torchaudio's transform of this name, as documented, for the extractor."""

    def __init__(
        self,
        n_fft: int,
        win_length: int,
        hop_length: int,
        power: float,
        center: bool,
        pad: int,
        normalized: bool,
    ) -> None:
        super().__init__()
        assert (pad, center, normalized, power) == (0, True, True, 2)
        self.sizes = (n_fft, hop_length, win_length)
        self.window = torch.hann_window(win_length)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        spectrum = torch.stft(
            waveform, *self.sizes, window=self.window, center=True, return_complex=True
        )
        return (spectrum / self.window.pow(2.0).sum().sqrt()).abs().pow(2)


@pytest.fixture(scope="module")
def extractor():
    """transformers' extractor, with a replacement for the one transform it needs."""
    module = importlib.import_module(EXTRACTOR)
    package: Any = types.ModuleType("torchaudio")
    package.transforms = types.SimpleNamespace(Spectrogram=Spectrogram)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchaudio", package)
        patch.setattr(module, "torchaudio", package, raising=False)
        kind = module.MusicgenMelodyFeatureExtractor
        # Without the package, stubs that raise replace the real methods.
        patch.setattr("transformers.utils.import_utils.is_torchaudio_available", lambda: True)
        patch.setattr(kind, "_backends", [], raising=False)
        yield kind()


def tone(*notes: float, seconds: float = 3.0) -> torch.Tensor:
    """Return sines one after another, each `seconds` long."""
    time = torch.arange(round(seconds * RATE)) / RATE
    return torch.cat([0.3 * torch.sin(2 * torch.pi * note * time) for note in notes])


@pytest.mark.parametrize(
    ("frequency", "row"), [(261.63, 0), (293.66, 2), (440.0, 9), (493.88, 11), (880.0, 9)]
)
def test_the_strongest_note_is_found(frequency, row):
    found = chroma(tone(frequency))
    assert found.shape[1] == 12
    assert (found.sum(dim=1) == 1).all()
    assert (found.argmax(dim=1) == row).all()


@pytest.mark.parametrize("samples", [1, 5_000, 16_383, 16_384, 16_385, 100_000, 30 * RATE])
def test_notes_are_those_of_transformers(extractor, samples):
    noise = torch.Generator().manual_seed(samples)
    audio = tone(261.63, 392.0, 329.63, 500.0, 440.0, seconds=6.5)[:samples]
    audio = audio + 0.05 * torch.randn(audio.shape, generator=noise)
    wanted = extractor(audio.numpy(), sampling_rate=RATE, return_tensors="pt").input_features[0]
    assert torch.equal(chroma(audio), wanted)


@pytest.mark.parametrize("level", [0.0, 1e-6, 1e-4])
def test_notes_of_near_silence_are_those_of_transformers(extractor, level):
    audio = level * torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    wanted = extractor(audio.numpy(), sampling_rate=RATE, return_tensors="pt").input_features[0]
    assert torch.equal(chroma(audio), wanted)


def test_silence_is_the_first_note():
    assert (chroma(torch.zeros(50_000)).argmax(dim=1) == 0).all()


def test_only_the_first_30_seconds_of_a_melody_are_used():
    started = tone(261.63, seconds=30.0)
    assert torch.equal(chroma(torch.cat([started, tone(440.0)])), chroma(started))


@pytest.mark.parametrize(
    ("kind", "seconds"), [("melody", 0.0), ("melody", 0.4), ("melody", 9.0), ("stereo-melody", 1.0)]
)
def test_conditioning_is_what_transformers_feeds_its_decoder(written, kind, seconds):
    model, checkpoint = written(kind)
    weights = open_weights(checkpoint)
    text = TextEncoder.load(checkpoint, weights)
    conditioner = MelodyConditioner.load(checkpoint, weights)
    prompt = "a beat with bass"
    melody = tone(261.63, 329.63, 440.0, seconds=seconds) if seconds else None
    inputs = {} if melody is None else {"input_features": chroma(melody)[None]}
    ids = torch.tensor([text.tokenize(prompt)])
    seen: list[torch.Tensor] = []
    hook = model.decoder.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["encoder_hidden_states"]),
        with_kwargs=True,
    )
    mask = torch.ones_like(ids)
    model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4, do_sample=False, **inputs)
    hook.remove()
    got = conditioner.condition(text.encode([prompt])[0], melody)
    assert got.states.shape == (CHROMA_LENGTH + ids.shape[1], 64)
    torch.testing.assert_close(got.states, seen[0][0], atol=1e-5, rtol=1e-5)
    assert got.unconditional is not None
    torch.testing.assert_close(got.unconditional, seen[0][1], atol=1e-5, rtol=1e-5)


def test_a_later_window_uses_a_later_part_of_the_repeated_melody(written):
    _, checkpoint = written("melody")
    conditioner = MelodyConditioner.load(checkpoint, open_weights(checkpoint))
    text = torch.zeros(3, 64)
    melody = tone(261.63, 440.0, seconds=4.0)
    later = conditioner.condition(text, melody, start_seconds=18.0)
    turned = conditioner.condition(text, torch.cat([melody[2 * RATE :], melody[: 2 * RATE]]))
    assert torch.equal(later.states, turned.states)
    assert not torch.equal(later.states, conditioner.condition(text, melody).states)


def test_a_model_without_melody_has_no_conditioner(written):
    _, checkpoint = written("mono")
    with pytest.raises(CheckpointError, match="audio_enc_to_dec_proj"):
        MelodyConditioner.load(checkpoint, open_weights(checkpoint))


@pytest.mark.parametrize("value", ['"16384"', "0", "null", "true"])
def test_an_invalid_setting_is_named(tmp_path, value):
    write_checkpoint(tmp_path, "melody")
    path = tmp_path / "preprocessor_config.json"
    path.write_text(path.read_text().replace("16384", value))
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="n_fft"):
        MelodyConditioner.load(checkpoint, open_weights(checkpoint))


def test_other_settings_are_read_from_the_checkpoint(tmp_path):
    assert chroma(tone(440.0), ChromaSettings(hop=2048)).shape[0] == 3 * RATE // 2048 + 1
    write_checkpoint(tmp_path, "melody")
    path = tmp_path / "preprocessor_config.json"
    path.write_text(path.read_text().replace("32000", "16000"))
    checkpoint = open_checkpoint(tmp_path)
    conditioner = MelodyConditioner.load(checkpoint, open_weights(checkpoint))
    assert conditioner.sample_rate == 16_000


def edit_json(path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value != "drop"}))


def load(folder):
    checkpoint = open_checkpoint(folder)
    return MelodyConditioner.load(checkpoint, open_weights(checkpoint))


@pytest.mark.parametrize("value", [0, -1, "235", 2.5])
def test_an_invalid_length_of_the_melody_is_named(tmp_path, value):
    write_checkpoint(tmp_path, "melody")
    edit_json(tmp_path / "config.json", chroma_length=value)
    with pytest.raises(CheckpointError, match=f"chroma_length of {value!r}"):
        load(tmp_path)


def test_configurations_with_different_notes_are_refused(tmp_path):
    write_checkpoint(tmp_path, "melody")
    edit_json(tmp_path / "config.json", num_chroma=24)
    with pytest.raises(CheckpointError, match=r"24 notes in config\.json and 12 in preprocessor"):
        load(tmp_path)


def test_published_settings_are_used_without_a_preprocessor_file(tmp_path):
    write_checkpoint(tmp_path, "melody")
    (tmp_path / "preprocessor_config.json").unlink()
    conditioner = load(tmp_path)
    assert conditioner.sample_rate == RATE
    assert conditioner._settings == ChromaSettings()


def test_missing_values_of_the_preprocessor_are_those_of_the_published_models(tmp_path):
    write_checkpoint(tmp_path, "melody")
    edit_json(tmp_path / "preprocessor_config.json", hop_length="drop", n_fft="drop")
    assert load(tmp_path)._settings == ChromaSettings()


def test_a_melody_is_repeated_or_cut_to_the_length_of_the_prefix(written):
    conditioner = load(written("melody")[1].folder)
    text = torch.zeros(3, 64)
    for seconds in (0.1, 2.0, 30.0):
        states = conditioner.condition(text, tone(440.0, seconds=seconds)).states
        assert states.shape == (CHROMA_LENGTH + 3, 64)


def test_the_prompt_follows_the_melody_and_is_zero_in_the_unconditional_row(written):
    conditioner = load(written("melody")[1].folder)
    text = torch.randn(3, 64)
    found = conditioner.condition(text, tone(440.0))
    assert torch.equal(found.states[CHROMA_LENGTH:], text)
    assert not found.unconditional[CHROMA_LENGTH:].any()
    silent = conditioner.condition(text, None)
    assert torch.equal(silent.states[:CHROMA_LENGTH], found.unconditional[:CHROMA_LENGTH])


@pytest.mark.parametrize("settings", [ChromaSettings(notes=24), ChromaSettings(sample_rate=16_000)])
def test_filters_of_other_settings_are_not_those_of_the_first(settings):
    # The filter bank is cached by the settings.
    first = chroma(tone(440.0))
    other = chroma(tone(440.0), settings)
    assert other.shape[1] == settings.notes
    assert torch.equal(chroma(tone(440.0)), first)
    assert torch.equal(chroma(tone(440.0), settings), other)
