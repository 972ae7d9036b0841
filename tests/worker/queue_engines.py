"""An engine that does what its prompt says; loaded by workers and engine processes under test.

"sleep 0.5" renders for that long. "die 2" ends the process in its first two attempts and then
succeeds; so do `kill` (as the system does without memory), `segfault`, `raise`, `cancel`, `hang`,
`noise` (sends the worker an invalid message) and `poison` (kills the worker). "refuse" cannot
succeed. "hold" renders until the file `released` is beside the ledger; "deaf" does too, but ignores
a stop. "log" writes a line to the log. "meet 3" waits
until three requests are in the process at once, which only `choir` can do; it also records the
inputs of a request, and has two parts. `slow` is a choir that takes a second to load.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from services.errors import CancelledError, InvalidRequestError
from services.generation.engine import (
    EngineFacts,
    GenerationParams,
    Progress,
    Rendered,
    ShouldStop,
)
from services.generation.registry import EngineEntry, Registry
from services.generation.score import Key, Note, Part, Score

LEDGER = "DGX_MUSIC_TEST_LEDGER"
LIMIT_SECONDS = 120.0

FACTS = EngineFacts(
    name="puppet",
    version="1",
    description="Does what the prompt says.",
    output_licence="CC0-1.0",
    sample_rate=8_000,
    channels=1,
    shortest_seconds=1.0,
    longest_seconds=30.0,
)
OTHER = replace(FACTS, name="other")
CHOIR = replace(
    FACTS, name="choir", concurrent=3, takes_melody=True, takes_continuation=True, most_parts=2
)
SCORE = Score(
    tempo_bpm=120.0,
    bars=1,
    key=Key(9, "minor"),
    genre="choral",
    sections=(),
    chords=(),
    parts=(Part("high", "lead", "lead-flute", (Note(0.0, 1.0, 69, 0.8),)),),
)
SLOW = replace(CHOIR, name="slow")
SLOW_LOAD_SECONDS = 1.0


def note(event: str, seed: int) -> int:
    """Append one line in one write; return the number of such lines there are now."""
    path = Path(os.environ[LEDGER])
    line = f"{time.time():.3f} {event} {seed} {os.getpid()}\n"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, line.encode())
    os.close(file)
    with path.open(encoding="utf-8") as lines:
        return sum(line.split()[1:3] == [event, str(seed)] for line in lines)


def raise_() -> None:
    raise ZeroDivisionError("as asked")


def cancel() -> None:
    raise CancelledError("Nobody asked.")


def hang() -> None:
    time.sleep(3600)


def noise() -> None:
    os.write(int(sys.argv[1]), b"\x00\xffnonsense\n")
    time.sleep(3600)


MISDEEDS: dict[str, Callable[[], object]] = {
    "die": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: ctypes.string_at(0),
    "raise": raise_,
    "cancel": cancel,
    "hang": hang,
    "noise": noise,
    "poison": lambda: os.kill(os.getppid(), signal.SIGKILL),
}


class PuppetEngine:
    def __init__(self, facts: EngineFacts) -> None:
        self.facts = facts
        self._arrivals = threading.Condition()
        self._arrived = 0
        if facts is SLOW:
            note("loading", 0)
            time.sleep(SLOW_LOAD_SECONDS)

    def render(
        self, params: GenerationParams, progress: Progress, should_stop: ShouldStop
    ) -> Rendered:
        attempt = note("start", params.seed)
        for name, file in (("melody", params.melody), ("before", params.continue_from)):
            if file is not None:
                note(f"{name}-{hashlib.sha256(file.read_bytes()).hexdigest()}", params.seed)
        verb, _, number = params.prompt.partition(" ")
        if verb == "refuse":
            raise InvalidRequestError("The puppet refuses.")
        if verb in MISDEEDS and attempt <= int(number):
            MISDEEDS[verb]()
        if verb == "log":
            logging.getLogger("services.puppet").info("seed=%d is logged", params.seed)
        if verb == "meet":
            self._meet(int(number))
        released = Path(os.environ[LEDGER]).with_name("released")
        end = time.monotonic() + (float(number) if verb == "sleep" else 0.0)
        while time.monotonic() < end or (verb in {"hold", "deaf"} and not released.exists()):
            progress("moving", 0.5)
            time.sleep(0.02)
            if should_stop() and verb != "deaf":
                note("stopped", params.seed)
                raise CancelledError("Cancelled.")
        times = np.arange(round(params.duration_seconds * FACTS.sample_rate)) / FACTS.sample_rate
        wave = 0.5 * np.sin(2 * np.pi * 220 * times)
        note("rendered", params.seed)
        audio = wave[None].astype(np.float32)
        return Rendered(
            audio=audio,
            sample_rate=FACTS.sample_rate,
            seed=params.seed,
            stems={"high": 0.75 * audio, "low": 0.25 * audio} if params.stems else {},
            score=SCORE if self.facts.most_parts else None,
        )

    def _meet(self, others: int) -> None:
        with self._arrivals:
            self._arrived += 1
            self._arrivals.notify_all()
            if not self._arrivals.wait_for(lambda: self._arrived >= others, timeout=LIMIT_SECONDS):
                raise InvalidRequestError("Nobody came.")


def registry(_settings: object = None) -> Registry:
    return Registry(
        {
            facts.name: EngineEntry(facts, lambda facts=facts: PuppetEngine(facts), lambda: None)
            for facts in (FACTS, OTHER, CHOIR, SLOW)
        }
    )
