"""Fixtures of the MusicGen tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from services.generation.musicgen.checkpoint.checkpoints import Checkpoint
    from tests.generation.musicgen.checkpoints import Kind


@pytest.fixture(scope="session")
def written(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Kind], tuple[Any, Checkpoint]]:
    """Return the model and the checkpoint of a kind, written on first use; tests must not change
    them."""
    from services.generation.musicgen.checkpoint.checkpoints import open_checkpoint
    from tests.generation.musicgen.checkpoints import write_checkpoint

    made: dict[Kind, tuple[Any, Checkpoint]] = {}

    def give(kind: Kind) -> tuple[Any, Checkpoint]:
        if kind not in made:
            folder: Path = tmp_path_factory.mktemp("checkpoint") / f"tiny-{kind}"
            model = write_checkpoint(folder, kind)
            made[kind] = model, open_checkpoint(folder)
        return made[kind]

    return give
