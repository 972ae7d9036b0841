"""The engines of this release, and whether they can run on this machine."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from services.errors import EngineUnavailableError
from services.installation import name_repair_command

if TYPE_CHECKING:
    from services.config import Settings
    from services.generation.engine import Engine, EngineFacts, EngineSettings
    from services.generation.length import Length
    from services.generation.musicgen.catalogue import PublishedModel


class SettleLength(Protocol):
    """Decides the duration, the bars and whether it is a loop; see `composer.length`."""

    def __call__(
        self, prompt: str, length: Length, facts: EngineFacts, *, usual_seconds: float
    ) -> Length: ...


AUTO = "auto"
"""Model name that stands for the best engine available here."""


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """An engine that requests can name."""

    facts: EngineFacts
    load: Callable[[], Engine]
    why_unavailable: Callable[[], str | None]
    """Returns one sentence with what is missing and the command that helps; None if it can run."""
    is_installed_apart: bool = False
    """Whether it has an install command of its own, so that its absence is no error."""
    is_named_only: bool = False
    """Whether only requests that name it get it, and `auto` never does."""
    settle_length: SettleLength | None = None
    """Decides how long a request is; None for an engine that does not count bars."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine for the model name of a request."""

    entry: EngineEntry
    passed_over: Mapping[str, str]
    """Engines that `auto` prefers and that cannot run here -> why."""


class Registry:
    """The engines by name, in order of preference."""

    def __init__(self, entries: Mapping[str, EngineEntry]) -> None:
        self._entries = dict(entries)

    def __iter__(self) -> Iterator[EngineEntry]:
        return iter(self._entries.values())

    def choose(self, name: str) -> Choice:
        """Return the engine for a model name or `auto`.

        Raises:
            EngineUnavailableError: the name is unknown, or the engine cannot run here.
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
        return Choice(entry, {})

    def resolve(self, name: str) -> EngineEntry:
        """Return the entry of `choose(name)`; raises as it does."""
        return self.choose(name).entry

    def _first_available(self) -> Choice:
        passed_over: dict[str, str] = {}
        for name, entry in self._entries.items():
            if entry.is_named_only:
                continue
            reason = entry.why_unavailable()
            if reason is None:
                return Choice(entry, passed_over)
            passed_over[name] = reason
        reasons = " ".join(f"{name}: {reason}" for name, reason in passed_over.items())
        raise EngineUnavailableError(f"No model can run here. {reasons}")


def _why_no_composer() -> str | None:
    try:
        import numba  # noqa: F401  (importing it is the check)
    except ImportError as error:
        command = name_repair_command()
        return f"numba does not load ({error}); install the project again: {command}"
    return None


def _load_composer() -> Engine:
    from services.generation.composer.engine import ComposerEngine

    return ComposerEngine()


def _settle_composer_length(
    prompt: str, length: Length, facts: EngineFacts, *, usual_seconds: float
) -> Length:
    from services.generation.composer.length import settle_length

    return settle_length(prompt, length, facts, usual_seconds=usual_seconds)


def _musicgen(model: PublishedModel, settings: Settings | EngineSettings) -> EngineEntry:
    def load() -> Engine:
        from services.generation.musicgen.engine import MusicGenEngine

        return MusicGenEngine.load(model, settings)

    def why_unavailable() -> str | None:
        from services.generation.musicgen.checkpoint import checkpoints

        return checkpoints.why_unavailable(model, settings.models_dir)

    return EngineEntry(
        model.facts,
        load,
        why_unavailable,
        is_installed_apart=True,
        # Its licence and its sound are of its owner's choice.
        is_named_only=model.is_added,
    )


def default_registry(settings: Settings | EngineSettings) -> Registry:
    """Return the engines: MusicGen from small to large, models of one's own, the composer."""
    from services.generation.composer.engine import FACTS
    from services.generation.musicgen.catalogue import MODELS
    from services.generation.musicgen.checkpoint.added import list_added

    models = [*MODELS.values(), *list_added(settings.models_dir)]
    entries = {model.name: _musicgen(model, settings) for model in models}
    entries[FACTS.name] = EngineEntry(
        FACTS, _load_composer, _why_no_composer, settle_length=_settle_composer_length
    )
    return Registry(entries)
