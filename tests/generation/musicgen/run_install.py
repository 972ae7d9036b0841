"""Runs `dgx-music` with a tiny model in the catalogue; the arguments are those of the command."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import MappingProxyType

from services.cli import main
from services.generation.musicgen import catalogue
from services.generation.musicgen.geometry import Geometry
from tests.generation.musicgen.hub_server import REPOSITORY, REVISION

SMALL = catalogue.MODELS["musicgen-small"]
TINY = replace(
    SMALL,
    name="musicgen-tiny",
    repository=REPOSITORY,
    revision=REVISION,
    geometry=Geometry(
        layers=2,
        hidden=64,
        heads=4,
        ffn=256,
        codebooks=4,
        codebook_size=2048,
        channels=1,
        cross_attention=True,
        max_positions=2048,
    ),
)

if __name__ == "__main__":
    catalogue.MODELS = MappingProxyType({SMALL.name: SMALL, TINY.name: TINY})
    sys.argv[0] = "dgx-music"
    main()
