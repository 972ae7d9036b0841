"""The shape of a decoder."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.generation.musicgen.catalogue import MODELS
from services.generation.musicgen.geometry import Geometry

STEREO = MODELS["musicgen-stereo-small"].geometry


def test_derived_sizes() -> None:
    assert (STEREO.head_size, STEREO.pad_token) == (64, 2048)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 7}, "7 heads do not divide 1024 values"),
        ({"channels": 0}, "for 0 channels"),
        ({"channels": 3, "codebooks": 6}, "6 codebooks for 3 channels"),
        ({"codebooks": 7}, "7 codebooks for 2 channels"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(STEREO, **change)


def test_equal_sizes_are_equal_geometries() -> None:
    same = Geometry(**{name: getattr(STEREO, name) for name in Geometry.__slots__})
    assert same == STEREO
    assert len({same, STEREO}) == 1
