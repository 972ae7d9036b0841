"""Which engines there are, and which of them this machine can run."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.errors import EngineUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    from services.generation.engine import Engine, EngineFacts
    from services.generation.musicgen.catalogue import PublishedModel

AUTO = "auto"
"""Stands for the best engine that is available here."""


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """An engine that can be asked for."""

    facts: EngineFacts
    load: Callable[[], Engine]
    why_unavailable: Callable[[], str | None]
    """One sentence on what is missing and the command that helps; None when it can run."""
    is_installed_apart: bool = False
    """Whether it comes with a command of its own, so that its absence is no fault."""


class Registry:
    """The engines by name, the preferred first."""

    def __init__(self, entries: Mapping[str, EngineEntry]) -> None:
        self._entries = dict(entries)

    def __iter__(self) -> Iterator[EngineEntry]:
        return iter(self._entries.values())

    def resolve(self, name: str) -> EngineEntry:
        """The entry behind a name or `auto`.

        Raises:
            EngineUnavailableError: unknown, or lacking something here.
        """
        if name == AUTO:
            return self._first_available()
        entry = self._entries.get(name)
        if entry is None:
            near = difflib.get_close_matches(name, [AUTO, *self._entries], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise EngineUnavailableError(
                f"There is no model {name!r}.{hint} `dgx-music models list` shows what there is."
            )
        if reason := entry.why_unavailable():
            raise EngineUnavailableError(f"The model {name!r} cannot run here: {reason}")
        return entry

    def _first_available(self) -> EngineEntry:
        reasons = []
        for name, entry in self._entries.items():
            reason = entry.why_unavailable()
            if reason is None:
                return entry
            reasons.append(f"{name}: {reason}")
        raise EngineUnavailableError(f"No model can run here. {' '.join(reasons)}")


def _why_no_composer() -> str | None:
    try:
        import numba  # noqa: F401  (importing it is the check)
    except ImportError as error:
        return f"numba does not load ({error}); install the project again: ./just init"
    return None


def _load_composer() -> Engine:
    from services.generation.composer.engine import ComposerEngine

    return ComposerEngine()


def _musicgen(model: PublishedModel, models_dir: Path | None) -> EngineEntry:
    """A model of MusicGen; the folder of the models is that of the settings unless it is given."""

    def load() -> Engine:
        from services.config import load_settings
        from services.generation.musicgen.engine import MusicGenEngine

        return MusicGenEngine.load(model, load_settings())

    def why_unavailable() -> str | None:
        from services.config import load_settings
        from services.generation.musicgen.checkpoint import checkpoints

        return checkpoints.why_unavailable(model, models_dir or load_settings().models_dir)

    return EngineEntry(model.facts, load, why_unavailable, is_installed_apart=True)


def default_registry(models_dir: Path | None = None) -> Registry:
    """The engines of this release: MusicGen from the smallest up, then the one that needs nothing.

    Args:
        models_dir: where the checkpoints are; None is what the settings say when it is asked.
    """
    from services.generation.composer.engine import FACTS
    from services.generation.musicgen.catalogue import MODELS

    entries = {name: _musicgen(model, models_dir) for name, model in MODELS.items()}
    entries[FACTS.name] = EngineEntry(FACTS, _load_composer, _why_no_composer)
    return Registry(entries)
