"""The files that belong to a take: its stems and its MIDI file."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from services.errors import CancelledError, EngineError, OutputError

if TYPE_CHECKING:
    from services.audio import Mastered, TakeFacts
    from services.audio.atomic import WrittenFile
    from services.generation.engine import Rendered, ShouldStop
    from services.library.orders import Order

STEM, MIDI = "stem", "midi"
"""The kinds of attachments, as in the rows."""

MIDI_NAME = "score"

STEM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,59}")
"""A stem's name is part of a file name and of a URL."""

_WRITERS = 2
"""Stems that are written at once; NumPy and the digest release the GIL."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A finished draft of a file that belongs to a take."""

    kind: str
    """`stem` or `midi`."""
    name: str
    """The part's name; of a MIDI file `score`."""
    path: str
    """Of the draft."""
    bytes: int
    sha256: str
    """Hexadecimal."""


def attachment_name(take_name: str, kind: str, name: str) -> str:
    """Return the name in the store: `ID.stems/NAME.wav` or `ID.mid`, beside the take."""
    base = take_name.removesuffix(".wav")
    return f"{base}.mid" if kind == MIDI else f"{stems_folder(take_name)}/{name}.wav"


def stems_folder(take_name: str) -> str:
    """Return the folder with the stems of a take, in the store or on the disk."""
    return f"{take_name.removesuffix('.wav')}.stems"


def write_attachments(
    order: Order,
    path: str,
    rendered: Rendered,
    mastered: Mastered,
    bit_depth: str,
    facts: TakeFacts,
    should_stop: ShouldStop,
) -> tuple[Attachment, ...]:
    """Write the stems and the MIDI file that an order asks for beside the draft of its take.

    Each stem gets the gain of the mix at every sample, loudness and limiter included, so the stems
    sum to the master: within 1e-6 as FLOAT, else within the rounding and the dither of each stem.

    Args:
        order: of the take.
        path: of the take's draft.
        rendered: has the stems and the score.
        mastered: has the gains of the mix.
        bit_depth: of the stems.
        facts: of the take; a stem's title and loudness are its own.
        should_stop: asked before each file.

    Raises:
        CancelledError: `should_stop` returned True.
        EngineError: the engine made no stems or notes, or a part's name fits no file.
        OutputError: the disk refuses.
    """
    from concurrent.futures import ThreadPoolExecutor

    _require_parts(order, rendered)

    def write_one(place_and_name: tuple[int, str]) -> Attachment:
        place, name = place_and_name
        if should_stop():
            raise CancelledError("Cancelled.")
        written = _write_stem(_draft(path, place), name, rendered, mastered, bit_depth, facts)
        return Attachment(STEM, name, str(written.path), written.bytes, written.sha256)

    found: list[Attachment] = []
    try:
        if order.params.stems:
            with ThreadPoolExecutor(_WRITERS, thread_name_prefix="stems") as pool:
                found += pool.map(write_one, enumerate(rendered.stems))
        if order.midi:
            found.append(_write_midi(_draft(path, len(found)), rendered))
    except RuntimeError as error:
        raise OutputError(str(error)) from error
    return tuple(found)


def _require_parts(order: Order, rendered: Rendered) -> None:
    lacks_stems = order.params.stems and not rendered.stems
    lacks_notes = order.midi and rendered.score is None
    if lacks_stems or lacks_notes:
        made = "stems" if lacks_stems else "notes"
        raise EngineError(f"The engine {order.model} returned no {made} for this request.")
    unfit = [name for name in rendered.stems if not STEM_NAME.fullmatch(name)]
    if unfit:
        raise EngineError(f"The engine {order.model} has a part that no file can have: {unfit[0]}.")


def _draft(path: str, place: int) -> str:
    # Named like a draft, so that the clean-up after a killed attempt removes it.
    return f"{path.removesuffix('.part')}-{place}.part"


def _write_stem(
    path: str,
    name: str,
    rendered: Rendered,
    mastered: Mastered,
    bit_depth: str,
    facts: TakeFacts,
) -> WrittenFile:
    from services.audio.sources import ArraySource
    from services.audio.wav import atomic_wav_stream

    stem = rendered.stems[name]
    with atomic_wav_stream(
        path,
        mastered.plan.apply(ArraySource(stem, rendered.sample_rate).blocks()),
        stem.shape[0],
        stem.shape[1],
        rendered.sample_rate,
        bit_depth,
        facts=replace(facts, title=f"{name} - {facts.prompt}", loudness=None),
        # Equal noise in all stems would add up to more than independent noise.
        dither_seed=zlib.crc32(name.encode()),
    ) as file:
        file.publish()
        return file.written_file


def _write_midi(path: str, rendered: Rendered) -> Attachment:
    from services.audio.atomic import atomic_file
    from services.daw.midi import score_to_midi

    assert rendered.score is not None
    data = score_to_midi(rendered.score)
    with atomic_file(path, "MIDI") as file:
        with file.explain_errors():
            file.temporary.write_bytes(data)
        file.finish(frames=0)
        file.publish()
        written = file.written_file
    return Attachment(MIDI, MIDI_NAME, str(written.path), written.bytes, written.sha256)
