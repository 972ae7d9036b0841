"""Checkpoints that several tests read and none changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.generation.musicgen.checkpoints import Checkpoint, open_checkpoint
from tests.musicgen.checkpoints import Kind, write_checkpoint

Written = Callable[[Kind], tuple[Any, Checkpoint]]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The model and the checkpoint of a kind, made when first asked for."""
    made: dict[Kind, tuple[Any, Checkpoint]] = {}

    def give(kind: Kind) -> tuple[Any, Checkpoint]:
        if kind not in made:
            folder: Path = tmp_path_factory.mktemp("checkpoint") / f"tiny-{kind}"
            model = write_checkpoint(folder, kind)
            made[kind] = model, open_checkpoint(folder)
        return made[kind]

    return give
