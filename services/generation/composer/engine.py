"""The composer as an `Engine`."""

from __future__ import annotations

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
    from services.generation.composer.prompt import ParsedPrompt
    from services.generation.score import Score

VERSION = "2"
"""Changes whenever the same seed may give other samples than before."""

FACTS = EngineFacts(
    name="composer",
    version=VERSION,
    description="Composes and synthesises on any machine; needs no weights.",
    output_licence="CC0-1.0",
    sample_rate=48_000,
    channels=2,
    shortest_seconds=1.0,
    longest_seconds=600.0,
    most_parts=16,
    counts_bars=True,
)

COMPOSING_SHARE = 0.05
"""Share of the progress that composing takes; rendering takes the rest."""


class ComposerEngine:
    """Prompt -> score -> stems -> mix: the same bytes for the same request."""

    @property
    def facts(self) -> EngineFacts:
        return FACTS

    def render(
        self, params: GenerationParams, progress: Progress, should_stop: ShouldStop
    ) -> Rendered:
        # The synthesiser imports numba, which takes a while and which the facts do not need.
        from services.generation.composer.prompt import parse_prompt
        from services.generation.composer.synth import render_score

        if params.duration_seconds > FACTS.longest_seconds:
            raise InvalidRequestError(
                f"The composer makes at most {FACTS.longest_seconds:g} seconds at a time."
            )
        progress("composing", 0.0)
        parsed = parse_prompt(params.prompt)
        score = write_score(params)

        def report(stage: str, fraction: float) -> None:
            progress(stage, COMPOSING_SHARE + (1.0 - COMPOSING_SHARE) * fraction)

        # A loop ends with its last bar, whatever duration a caller names beside it.
        seconds = score.seconds if score.loop else params.duration_seconds
        rendered = render_score(
            score,
            sample_rate=FACTS.sample_rate,
            samples=round(seconds * FACTS.sample_rate),
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
            loop=score.loop,
            score=score,
            understood=_describe(parsed, score),
        )


def write_score(params: GenerationParams) -> Score:
    """Return the notes that `ComposerEngine.render` plays for these parameters."""
    from services.generation.composer.compose import compose
    from services.generation.composer.prompt import parse_prompt

    return compose(
        parse_prompt(params.prompt),
        duration_seconds=params.duration_seconds,
        seed=params.seed,
        bars=params.bars,
        loop=params.loop,
    )


def _describe(parsed: ParsedPrompt, score: Score) -> dict[str, Any]:
    """Return the genre, what the prompt states, and the notes on it, without what was assumed."""
    facts = parsed.to_dict()
    stated = facts["read"]
    if stated.get("style") == parsed.genre:
        del stated["style"]
    if "key" in stated:
        stated.pop("mode", None)
    stated.pop("energy", None)
    notes = facts["notes"]
    if parsed.bars not in (None, score.bars):
        notes.append(
            f"The prompt says {parsed.bars} bars; the request's own length, {score.bars}, was kept."
        )
    return {"genre": parsed.genre, "requested": stated, "notes": notes}
