"""Compiles every loop of the synthesiser, so that the first take need not wait for it.

Run as `python -m services.generation.composer.warm_up`.
"""

from __future__ import annotations

from services.generation.composer.synth import PATCHES, render_score
from services.generation.score import Key, Note, Part, Score

SAMPLE_RATE = 48_000


def warm_up() -> None:
    """Render a short note on every patch with every effect; numba caches the machine code."""
    score = Score(
        tempo_bpm=120.0,
        bars=1,
        key=Key(9, "minor"),
        genre="lo-fi",  # the only genre with the tape effect
        sections=(),
        chords=(),
        parts=tuple(_make_part(patch) for patch in PATCHES),
    )
    render_score(
        score,
        sample_rate=SAMPLE_RATE,
        samples=SAMPLE_RATE // 4,
        seed=0,
        progress=lambda _stage, _fraction: None,
        should_stop=lambda: False,
    )


def _make_part(patch: str) -> Part:
    drums = patch.startswith("kit-")
    return Part(
        name=patch,
        role="drums" if drums else "chords",
        patch=patch,
        notes=(Note(start=0.0, duration=0.25, pitch=36 if drums else 57, velocity=0.8),),
        reverb=0.3,
        delay=0.3,
        sidechain=0.3,
        brightness=((0.0, 0.3), (1.0, 0.8)),
    )


if __name__ == "__main__":
    warm_up()
