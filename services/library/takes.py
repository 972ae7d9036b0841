"""From an order to a take: rendered, mastered, measured and written.

It uses neither rows nor the queue, because it also runs in engine processes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.errors import CancelledError, OutputError
from services.library.attachments import Attachment, write_attachments
from services.library.take_metadata import build_file_facts, build_measurements, build_row_metadata
from services.machine.space import free_bytes

if TYPE_CHECKING:
    from services.audio import Analysis, Mastered, TakeFacts, WrittenFile
    from services.config import Settings
    from services.generation.engine import Engine, EngineFacts, Progress, Rendered, ShouldStop
    from services.library.drafts import StrPath
    from services.library.orders import Order

RENDER_SHARE = 0.85
"""Part of the progress that belongs to the engine."""

SPARE_BYTES = 8 * 2**20
"""Free space that must remain for the database and other programs."""

MOST_PARTS = 16
"""Largest `most_parts` of any engine."""

BYTES_A_SAMPLE = {"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """The settings that a take is mastered and written with."""

    output_dir: Path
    target_lufs: float | None
    true_peak_dbtp: float
    bit_depth: str

    @classmethod
    def of(cls, settings: Settings) -> Delivery:
        return cls(
            output_dir=settings.output_dir,
            target_lufs=settings.target_lufs,
            true_peak_dbtp=settings.true_peak_dbtp,
            bit_depth=settings.bit_depth,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """A finished draft, not published yet."""

    path: StrPath
    bytes: int
    sha256: str
    seconds: float
    """Time from the start of rendering to the end of writing."""
    metadata: dict[str, Any]
    """For the job's row, JSON-ready."""
    measurements: dict[str, Any]
    """For the row's analysis, JSON-ready; the fields of `storage.Measurements`."""
    attachments: tuple[Attachment, ...] = ()
    """The stems and the MIDI file, if the order asks for them."""


def make_take(
    order: Order,
    path: StrPath,
    engine: Engine,
    delivery: Delivery,
    progress: Progress,
    should_stop: ShouldStop,
) -> Take:
    """Render an order, master it, measure it and write it to a path.

    Raises:
        CancelledError: `should_stop` returned True.
        DGXMusicError: the engine or the disk failed.
    """
    started = time.perf_counter()

    def report_render(stage: str, fraction: float) -> None:
        progress(stage, RENDER_SHARE * fraction)

    require_space(delivery, order.params.duration_seconds, engine.facts, stems=order.params.stems)
    rendered = engine.render(order.params, report_render, should_stop)
    _stop_if_asked(should_stop)
    progress("mastering", RENDER_SHARE)
    mastered = _master(rendered, delivery)
    _stop_if_asked(should_stop)
    progress("measuring", 0.92)
    measured = _measure(rendered, mastered)
    _stop_if_asked(should_stop)
    progress("writing", 0.95)
    facts = build_file_facts(
        generation_id=order.generation_id,
        prompt=order.params.prompt,
        created_at=order.created_at,
        engine=engine.facts,
        rendered=rendered,
        mastered=mastered,
    )
    written = _write(path, mastered, rendered.sample_rate, delivery.bit_depth, facts)
    attachments = write_attachments(
        order, str(path), rendered, mastered, delivery.bit_depth, facts, should_stop
    )
    return Take(
        path=written.path,
        bytes=written.bytes,
        sha256=written.sha256,
        seconds=round(time.perf_counter() - started, 3),
        metadata=build_row_metadata(
            engine.facts, rendered, mastered, measured, delivery.target_lufs
        ),
        measurements=build_measurements(mastered, measured),
        attachments=attachments,
    )


def estimate_most_bytes(delivery: Delivery, seconds: float, *, stems: bool = False) -> int:
    """Return the size of a stereo take at 48 kHz, which is the largest that any engine makes."""
    files = 1 + MOST_PARTS * stems
    return files * int(seconds * 48_000) * 2 * BYTES_A_SAMPLE[delivery.bit_depth]


def require_space(
    delivery: Delivery, seconds: float, facts: EngineFacts, *, stems: bool = False
) -> None:
    """Check before rendering that the disk has space for the take.

    Args:
        delivery: has the output folder and the bit depth.
        seconds: duration of the take.
        facts: have the sample rate, the channels and the number of parts.
        stems: whether each part is kept too.

    Raises:
        OutputError: too little is free, or the folder cannot be created.
    """
    files = 1 + facts.most_parts * stems
    frames = files * int(seconds * facts.sample_rate)
    need = frames * facts.channels * BYTES_A_SAMPLE[delivery.bit_depth]
    try:
        delivery.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The output folder {delivery.output_dir} cannot be used: {error.strerror}. "
            "Set DGX_MUSIC_OUTPUT_DIR to another one."
        ) from error
    free = free_bytes(delivery.output_dir)
    if free < need + SPARE_BYTES:
        raise OutputError(
            f"The disk of {delivery.output_dir} has {free / 2**20:.0f} MiB free and this take "
            f"needs {(need + SPARE_BYTES) / 2**20:.0f} MiB. Free some space, or set "
            "DGX_MUSIC_OUTPUT_DIR to a folder on another disk."
        )


def _master(rendered: Rendered, delivery: Delivery) -> Mastered:
    from services.audio import master

    return master(
        rendered.audio,
        rendered.sample_rate,
        target_lufs=delivery.target_lufs,
        true_peak_dbtp=delivery.true_peak_dbtp,
        loop=rendered.loop,
    )


def _measure(rendered: Rendered, mastered: Mastered) -> Analysis:
    from services.audio import analyse

    return analyse(
        mastered.audio,
        rendered.sample_rate,
        hint_bpm=rendered.tempo_bpm,
        loudness=mastered.loudness,
    )


def _write(
    path: StrPath, mastered: Mastered, sample_rate: int, bit_depth: str, facts: TakeFacts
) -> WrittenFile:
    from services.audio import write_wav

    try:
        return write_wav(path, mastered.audio, sample_rate, bit_depth=bit_depth, facts=facts)
    except RuntimeError as error:
        raise OutputError(str(error)) from error


def _stop_if_asked(should_stop: ShouldStop) -> None:
    if should_stop():
        raise CancelledError("Cancelled.")
