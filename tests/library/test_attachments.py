"""Stems and MIDI of a take: what is written beside its draft."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile

from services.audio import read_facts
from services.daw.midi import score_to_midi
from services.errors import CancelledError, EngineError, OutputError
from services.generation.composer.engine import FACTS, ComposerEngine
from services.generation.engine import GenerationParams
from services.library.attachments import attachment_name
from services.library.orders import Order
from services.library.takes import MOST_PARTS, Delivery, make_take, require_space

LOUD_LUFS = -7.0
"""Takes more than a gain: the limiter works at every kick."""


class Replay:
    """An engine that returns what was rendered before."""

    facts = FACTS

    def __init__(self, rendered):
        self.rendered = rendered

    def render(self, params, _progress, _should_stop):
        stems = self.rendered.stems if params.stems else {}
        return replace(self.rendered, stems=stems)


@pytest.fixture(scope="module")
def rendered():
    params = GenerationParams(prompt="trap beat", duration_seconds=3.0, seed=4, stems=True)
    return ComposerEngine().render(params, lambda *_: None, lambda: False)


def make_order(*, stems=True, midi=True):
    return Order(
        generation_id="1a2b3c4d-0000-4000-8000-000000000000",
        model="composer",
        created_at=datetime(2026, 11, 21, tzinfo=UTC),
        file_path="2026/11/21/a.wav",
        params=GenerationParams(prompt="trap beat", duration_seconds=3.0, seed=4, stems=stems),
        midi=midi,
    )


def make(folder, rendered, *, bit_depth="FLOAT", stop=lambda: False, **wanted):
    delivery = Delivery(
        output_dir=folder, target_lufs=LOUD_LUFS, true_peak_dbtp=-1.0, bit_depth=bit_depth
    )
    draft = str(folder / ".dgx-a.1" / ".dgx-1.part")
    return make_take(make_order(**wanted), draft, Replay(rendered), delivery, lambda *_: None, stop)


def read(path):
    return soundfile.read(path, dtype="float64", always_2d=True)[0]


def list_stems(take):
    return [one for one in take.attachments if one.kind == "stem"]


def test_stems_sum_to_the_limited_master_within_1e_6(tmp_path, rendered):
    take = make(tmp_path, rendered)
    assert take.metadata["gain_reduction_db"] > 1.0
    stems = list_stems(take)
    assert [one.name for one in stems] == [part.name for part in rendered.score.parts]
    total = sum(read(one.path) for one in stems)
    assert np.abs(total - read(take.path)).max() < 1e-6


def test_stems_of_16_bit_sum_to_the_master_within_their_rounding(tmp_path, rendered):
    take = make(tmp_path, rendered, bit_depth="PCM_16")
    stems = list_stems(take)
    steps = (sum(read(one.path) for one in stems) - read(take.path)) * 2**15
    # Each file has the noise of its rounding and of its dither, half a step RMS; were the dither
    # of all stems the same, it would add up to that of `len(stems)` steps instead of its root.
    assert np.sqrt(np.mean(steps**2)) < 0.55 * np.sqrt(len(stems) + 1)
    assert soundfile.info(stems[0].path, verbose=False).subtype == "PCM_16"


def test_a_stem_says_what_it_is_and_how_it_was_made(tmp_path, rendered):
    take = make(tmp_path, rendered)
    for one in list_stems(take):
        facts, whole = read_facts(one.path), read_facts(take.path)
        assert facts.title == f"{one.name} - trap beat"
        assert facts.loudness is None
        assert whole.title is None
        assert facts == replace(whole, title=facts.title, loudness=None)
        with soundfile.SoundFile(one.path) as file:
            assert file.title == facts.title
            assert file.copyright == "CC0-1.0"


def test_the_midi_file_has_the_notes_of_the_score(tmp_path, rendered):
    take = make(tmp_path, rendered, stems=False)
    (midi,) = take.attachments
    assert (midi.kind, midi.name) == ("midi", "score")
    assert Path(midi.path).read_bytes() == score_to_midi(rendered.score)


def test_attachments_have_the_size_and_digest_of_their_files(tmp_path, rendered):
    for one in make(tmp_path, rendered).attachments:
        data = Path(one.path).read_bytes()
        assert (one.bytes, one.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_nothing_is_written_beside_a_take_that_asks_for_nothing(tmp_path, rendered):
    take = make(tmp_path, rendered, stems=False, midi=False)
    assert take.attachments == ()
    assert [path.name for path in Path(take.path).parent.iterdir()] == [Path(take.path).name]


def test_the_take_is_the_same_with_and_without_stems(tmp_path, rendered):
    alone = make(tmp_path / "a", rendered, stems=False, midi=False)
    assert alone.sha256 == make(tmp_path / "b", rendered).sha256


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stems": {}}, "returned no stems"),
        ({"score": None}, "returned no notes"),
        ({"stems": {"../drums": np.zeros((2, 8), np.float32)}}, r"no file can have: \.\./drums"),
    ],
)
def test_an_engine_without_fitting_parts_fails(tmp_path, rendered, change, words):
    with pytest.raises(EngineError, match=words):
        make(tmp_path, replace(rendered, **change))


def test_writing_stems_stops_when_asked(tmp_path, rendered):
    class Stop:
        calls = 0

        def __call__(self):
            self.calls += 1
            return self.calls > 4

    with pytest.raises(CancelledError):
        make(tmp_path, rendered, stop=Stop())


def test_the_disk_needs_space_for_every_part(tmp_path, monkeypatch):
    delivery = Delivery(
        output_dir=tmp_path, target_lufs=None, true_peak_dbtp=-1.0, bit_depth="PCM_16"
    )
    monkeypatch.setattr("services.library.takes.free_bytes", lambda _: 40 * 2**20)
    require_space(delivery, 60.0, FACTS)
    with pytest.raises(OutputError, match="MiB free"):
        require_space(delivery, 60.0, FACTS, stems=True)
    assert FACTS.most_parts <= MOST_PARTS


@pytest.mark.parametrize(
    ("take", "kind", "name", "expected"),
    [
        ("d/a.wav", "stem", "drums", "d/a.stems/drums.wav"),
        ("d/a.wav", "midi", "score", "d/a.mid"),
        ("d/a/n/a.wav", "stem", "lead 2", "d/a/n/a.stems/lead 2.wav"),
    ],
)
def test_attachments_lie_beside_their_take(take, kind, name, expected):
    assert attachment_name(take, kind, name) == expected
