"""From the files of a checkpoint to audio, compared with transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoTokenizer

from services.generation.musicgen.checkpoint.checkpoints import Checkpoint, open_checkpoint
from services.generation.musicgen.checkpoint.parts import open_weights
from services.generation.musicgen.codec.codec import Codec
from services.generation.musicgen.conditioning.melody import MelodyConditioner, chroma
from services.generation.musicgen.conditioning.references import read_for_continuation, read_melody
from services.generation.musicgen.conditioning.text import TextEncoder
from services.generation.musicgen.decoders.torch_decoder import TorchDecoder
from services.generation.musicgen.loop.loop import DecodeLoop
from services.generation.musicgen.loop.request import Conditioning, DecodeRequest, Sampling
from services.generation.musicgen.loop.token_model import SampledDecoder
from tests.generation.musicgen.checkpoints import write_checkpoint

FRAMES = 20
PROMPT = "lo fi beat with a piano"
GREEDY = Sampling(greedy=True)


def render(
    checkpoint: Checkpoint, melody: torch.Tensor | None = None, known: torch.Tensor | None = None
) -> torch.Tensor:
    """Render audio `[channels, samples]` from a stream of codes."""
    weights = open_weights(checkpoint)
    (states,) = TextEncoder.load(checkpoint, weights).encode([PROMPT])
    conditioning = Conditioning(states)
    if not checkpoint.geometry.cross_attention:
        conditioning = MelodyConditioner.load(checkpoint, weights).condition(states, melody)
    codec = Codec.load(checkpoint, weights)
    prefix = None if known is None else codec.encode(known).numpy()
    frames = FRAMES + (0 if prefix is None else prefix.shape[1])
    request = DecodeRequest(
        conditioning=(conditioning,), frames=frames, sampling=GREEDY, prefix=prefix
    )
    model = TorchDecoder(weights, checkpoint.geometry, slots=1, positions=160)
    stream = codec.stream()
    with DecodeLoop(SampledDecoder(model)) as loop:
        chunks = [
            stream.push(torch.from_numpy(codes)) for codes in loop.submit(request).stream(frames=7)
        ]
    return torch.cat([*chunks, stream.finish()], dim=1)


@torch.inference_mode()
def generate(model: Any, checkpoint: Checkpoint, **more: torch.Tensor) -> torch.Tensor:
    """Render the same audio with transformers."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
    inputs = tokenizer([PROMPT], return_tensors="pt")
    audio: torch.Tensor = model.generate(
        input_ids=inputs.input_ids,
        attention_mask=inputs.attention_mask,
        max_new_tokens=FRAMES + 3,
        do_sample=False,
        **more,
    )
    return audio[0]


@pytest.mark.parametrize(
    ("kind", "shards", "dtype"),
    [
        ("mono", 1, torch.float32),
        ("stereo", 3, torch.float16),
        ("stereo-melody", 2, torch.bfloat16),
    ],
)
def test_a_checkpoint_renders_the_audio_of_transformers(tmp_path, kind, shards, dtype):
    model = write_checkpoint(tmp_path, kind, shards=shards, dtype=dtype)
    checkpoint = open_checkpoint(tmp_path)
    reference = generate(model, checkpoint)
    assert reference.shape[1] == FRAMES * 640
    torch.testing.assert_close(render(checkpoint), reference, atol=1e-5, rtol=0)


def tone(path, rate: int, seconds: float) -> None:
    time = np.arange(round(seconds * rate)) / rate
    left, right = (0.3 * np.sin(2 * np.pi * note * time) for note in (261.63, 329.63))
    soundfile.write(path, np.stack([left, right], axis=1), rate)


def test_a_melody_renders_the_audio_of_transformers(tmp_path, written):
    model, checkpoint = written("melody")
    tone(tmp_path / "a.flac", 44_100, 5.0)
    melody = torch.from_numpy(read_melody(tmp_path / "a.flac", 32_000))[0]
    reference = generate(model, checkpoint, input_features=chroma(melody)[None])
    torch.testing.assert_close(render(checkpoint, melody), reference, atol=1e-5, rtol=0)
    assert (render(checkpoint) - reference).abs().max() > 0.01


def test_a_continuation_renders_the_audio_of_transformers(tmp_path, written):
    model, checkpoint = written("stereo")
    tone(tmp_path / "a.wav", 48_000, 1.3)
    known = torch.from_numpy(read_for_continuation(tmp_path / "a.wav", 32_000, 2, 640))
    reference = generate(model, checkpoint, input_values=known[None])
    got = render(checkpoint, known=known)
    assert got.shape[1] == known.shape[1] + FRAMES * 640
    torch.testing.assert_close(got, reference, atol=1e-5, rtol=0)
