from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generation.musicgen.checkpoint.parts import open_weights
from services.generation.musicgen.codec import codec as codec_module
from services.generation.musicgen.codec import lstm as lstm_module
from services.generation.musicgen.codec.codec import Codec
from services.generation.musicgen.codec.lstm import pack_lstm
from services.generation.musicgen.codec.stack import CodecStack

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def codecs(written):
    """The codec of each kind, and transformers' model with the same weights."""
    made = {}
    for kind in ("mono", "stereo"):
        model, checkpoint = written(kind)
        made[kind] = Codec.load(checkpoint, open_weights(checkpoint)), model.audio_encoder
    return made


def decoded(codec: Codec, codes: torch.Tensor) -> torch.Tensor:
    stream = codec.stream()
    return torch.cat([stream.push(codes), stream.finish()], dim=1)


def some_codes(codebooks: int, frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        0, 2048, (codebooks, frames), generator=torch.Generator().manual_seed(seed)
    )


@torch.inference_mode()
def in_one_go(model, codes: torch.Tensor, channels: int) -> torch.Tensor:
    """Decode each channel with transformers."""
    return torch.cat(
        [
            model.decode(codes[None, None, channel::channels], [None]).audio_values[0]
            for channel in range(channels)
        ]
    )


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7, 27, 28, 29, 99, 100, 103, 104, 250])
def test_decoding_in_chunks_gives_the_audio_of_transformers(codecs, frames):
    codec, model = codecs["mono"]
    codes = some_codes(4, frames)
    wanted = in_one_go(model, codes, 1)
    got = decoded(codec, codes)
    assert got.shape == wanted.shape == (1, frames * 640)
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(got, wanted, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("rows", [1, 2])
def test_the_packed_lstm_equals_that_of_torch_bitwise(rows):
    torch.manual_seed(3)
    lstm = torch.nn.LSTM(32, 32, num_layers=2).requires_grad_(False)
    ours, wanted_memory, memory = pack_lstm(lstm, torch.device("cpu")), None, None
    for frames in (7, 1, 30):
        steps = torch.randn(rows, 32, frames).permute(2, 0, 1)
        wanted, wanted_memory = lstm(steps, wanted_memory)
        states, memory = ours(steps, memory)
        for one, other in zip((states, *memory), (wanted, *wanted_memory), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("rows_at_once", [1, 2])
def test_left_and_right_alternate_in_stereo_codes(codecs, monkeypatch, rows_at_once):
    codec, model = codecs["stereo"]
    monkeypatch.setattr(codec._layers, "rows_at_once", rows_at_once)
    codes = some_codes(8, 130)
    wanted = in_one_go(model, codes, 2)
    got = decoded(codec, codes)
    assert got.shape == (2, 130 * 640)
    assert (got[0] - got[1]).abs().max() > 0.1
    torch.testing.assert_close(got, wanted, atol=TOLERANCE, rtol=0)


def assert_same(found, wanted):
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@settings(max_examples=10)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    chunk=st.integers(1, 70),
)
def test_a_stream_gives_the_same_audio_however_its_codes_arrive(codecs, sizes, chunk):
    codec, model = codecs["mono"]
    codes = some_codes(4, sum(sizes))
    stream = codec.stream(chunk)
    ends = list(itertools.accumulate(sizes))
    chunks = [
        stream.push(codes[:, start:end]) for start, end in zip([0, *ends], ends, strict=False)
    ]
    got = torch.cat([*chunks, stream.finish()], dim=1)
    at_once = codec.stream(chunk)
    assert_same(got, torch.cat([at_once.push(codes), at_once.finish()], dim=1))
    torch.testing.assert_close(got, in_one_go(model, codes, 1), atol=TOLERANCE, rtol=0)


def test_a_stream_gives_audio_before_its_end(codecs):
    codec, _ = codecs["mono"]
    stream = codec.stream()
    given_out = [
        stream.push(codes).shape[1] // 640 for codes in some_codes(4, 210).split(10, dim=1)
    ]
    assert [frames for frames in given_out if frames] == [98, 98]
    assert given_out.index(98) == 10


def test_the_same_blocks_give_bitwise_the_same_audio(codecs):
    codec, _ = codecs["stereo"]
    codes = some_codes(8, 230)
    first, again = codec.stream(), codec.stream()
    for part in codes.split(25, dim=1):
        assert torch.equal(first.push(part), again.push(part))
    assert torch.equal(first.finish(), again.finish())


def test_chunks_without_neighbours_change_the_audio(codecs, monkeypatch):
    codec, model = codecs["mono"]
    codes = some_codes(4, 250)
    monkeypatch.setattr(codec_module, "NEIGHBOURS", 0)
    assert (decoded(codec, codes) - in_one_go(model, codes, 1)).abs().max() > TOLERANCE


@pytest.mark.parametrize(
    "codes",
    [
        torch.zeros(3, 5, dtype=torch.int64),
        torch.zeros(4, 0, dtype=torch.int64),
        torch.zeros(5, dtype=torch.int64),
        torch.full((4, 5), 2048),
        torch.full((4, 5), -1),
    ],
)
def test_invalid_codes_are_refused(codecs, codes):
    codec, _ = codecs["mono"]
    with pytest.raises(ValueError, match=r"[Cc]odes"):
        codec.stream().push(codes)


def test_a_finished_stream_refuses_more_codes(codecs):
    codec, _ = codecs["mono"]
    stream = codec.stream()
    stream.finish()
    with pytest.raises(ValueError, match="finished"):
        stream.push(some_codes(4, 5))
    with pytest.raises(ValueError, match="finished"):
        stream.finish()


@pytest.mark.parametrize("kind", ["mono", "stereo"])
@pytest.mark.parametrize("samples", [640, 6400, 12_345])
def test_audio_becomes_the_codes_of_transformers(codecs, kind, samples):
    codec, model = codecs[kind]
    noise = torch.Generator().manual_seed(samples)
    audio = torch.randn(codec.channels, samples, generator=noise) * 0.1
    with torch.inference_mode():
        wanted = [model.encode(channel[None, None]).audio_codes[0, 0] for channel in audio]
    got = codec.encode(audio)
    assert got.shape == (4 * codec.channels, -(-samples // 640))
    for channel, codes in enumerate(wanted):
        assert torch.equal(got[channel :: codec.channels], codes)


def test_audio_of_another_number_of_channels_is_refused(codecs):
    codec, _ = codecs["mono"]
    with pytest.raises(ValueError, match="1 channels"):
        codec.encode(torch.zeros(2, 640))


@pytest.mark.parametrize("frames", [0, -3])
def test_a_chunk_without_frames_is_refused(codecs, frames):
    with pytest.raises(ValueError, match=f"at least 1 frame, not {frames}"):
        codecs["mono"][0].stream(frames)


def test_an_empty_stream_is_silent(codecs):
    for kind, channels in (("mono", 1), ("stereo", 2)):
        assert codecs[kind][0].stream().finish().shape == (channels, 0)


@pytest.mark.parametrize("audio", [torch.zeros(640), torch.zeros(1, 0), torch.zeros(1, 1, 640)])
def test_audio_of_another_shape_is_refused(codecs, audio):
    with pytest.raises(ValueError, match="1 channels"):
        codecs["mono"][0].encode(audio)


def test_two_streams_of_a_codec_do_not_mix(codecs):
    codec, _ = codecs["mono"]
    codes = [some_codes(4, 120, seed) for seed in (1, 2)]
    streams = [codec.stream(), codec.stream()]
    chunks = [[], []]
    for start in range(0, 120, 40):
        for number, stream in enumerate(streams):
            chunks[number].append(stream.push(codes[number][:, start : start + 40]))
    for number, stream in enumerate(streams):
        together = torch.cat([*chunks[number], stream.finish()], dim=1)
        assert_same(together, decoded(codec, codes[number]))


def test_encoding_and_decoding_keep_the_length(codecs):
    codec, _ = codecs["stereo"]
    codes = codec.encode(torch.randn(2, 3 * 640, generator=torch.Generator().manual_seed(1)))
    assert codes.shape == (8, 3)
    assert decoded(codec, codes).shape == (2, 3 * 640)


def test_an_lstm_that_cannot_be_packed_is_used_as_it_is(monkeypatch):
    monkeypatch.setattr(lstm_module, "has_packed_fp32", lambda: False)
    lstm = torch.nn.LSTM(8, 8)
    assert pack_lstm(lstm, torch.device("cpu")) is lstm
    assert pack_lstm(lstm, torch.device("meta")) is lstm


def test_an_unknown_layer_of_the_codec_is_named():
    with pytest.raises(TypeError, match="Tanh is not a layer of the codec"):
        CodecStack([torch.nn.Tanh()], torch.device("cpu"))


def test_the_stack_does_not_change_its_input(codecs):
    layers = codecs["mono"][0]._layers
    states = torch.randn(1, layers.width, 5)
    before = states.clone()
    layers.upsample(states)
    assert torch.equal(states, before)
