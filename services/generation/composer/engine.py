"""The built-in engine behind the Engine protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from services.errors import InvalidRequestError
from services.generation.engine import (
    EngineFacts,
    GenerationParams,
    Progress,
    Rendered,
    ShouldStop,
)

if TYPE_CHECKING:
    from services.generation.composer.prompt import Understood

VERSION = "1"
"""Goes up whenever the same seed may give other samples than before."""

FACTS = EngineFacts(
    name="composer",
    version=VERSION,
    description="Composes and synthesises on any machine; needs no weights.",
    output_licence="CC0-1.0",
    sample_rate=48_000,
    channels=2,
    shortest_seconds=1.0,
    longest_seconds=600.0,
)

COMPOSING_SHARE = 0.05
"""Part of the progress bar that composing takes; the rest is sound."""


class ComposerEngine:
    """Prompt -> score -> stems -> mix, the same bytes for the same seed."""

    @property
    def facts(self) -> EngineFacts:
        """See FACTS."""
        return FACTS

    def render(
        self,
        requests: Sequence[GenerationParams],
        progress: Progress,
        should_stop: ShouldStop,
    ) -> list[Rendered]:
        """Render one request after the other."""
        results = []
        for done, params in enumerate(requests):

            def report(stage: str, fraction: float, done: int = done) -> None:
                progress(stage, (done + fraction) / len(requests))

            results.append(self._render_one(params, report, should_stop))
        return results

    def _render_one(
        self, params: GenerationParams, progress: Progress, should_stop: ShouldStop
    ) -> Rendered:
        # The synthesiser loads numba; who only asks for the facts should not wait for it.
        from services.generation.composer.compose import compose
        from services.generation.composer.prompt import understand
        from services.generation.composer.synth import render_score

        if params.duration_seconds > FACTS.longest_seconds:
            raise InvalidRequestError(
                f"The composer makes at most {FACTS.longest_seconds:g} seconds at a time."
            )
        progress("composing", 0.0)
        understood = understand(params.prompt)
        score = compose(understood, duration_seconds=params.duration_seconds, seed=params.seed)

        def report(stage: str, fraction: float) -> None:
            progress(stage, COMPOSING_SHARE + (1.0 - COMPOSING_SHARE) * fraction)

        rendered = render_score(
            score,
            sample_rate=FACTS.sample_rate,
            samples=round(params.duration_seconds * FACTS.sample_rate),
            seed=params.seed,
            progress=report,
            should_stop=should_stop,
            stems=params.stems,
        )
        return Rendered(
            audio=rendered.mix,
            sample_rate=FACTS.sample_rate,
            seed=params.seed,
            tempo_bpm=score.tempo_bpm,
            key=score.key.name,
            bars=score.bars,
            stems=rendered.stems,
            score=score,
            understood=_told(understood),
        )


def _told(understood: Understood) -> dict[str, Any]:
    """The genre, what the prompt stated and what was read otherwise; the rest was assumed."""
    facts = understood.to_dict()
    stated = facts["read"]
    if stated.get("style") == understood.genre:
        del stated["style"]
    if "key" in stated:
        stated.pop("mode", None)
    stated.pop("energy", None)
    return {"genre": understood.genre, "requested": stated, "notes": facts["notes"]}
