"""Speed of the composer: whole scores against realtime, patches, and cold start.

Run as `python -m benchmarks.composer [--json]`; `measure` gives the same figures to other code.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from services.generation.composer.synth import PATCHES, render_score
from services.generation.score import Key, Note, Part, Role, Score

SAMPLE_RATE = 48_000
TEMPO_BPM = 120.0
BAR_SECONDS = 2.0
TARGETS = {"times_realtime_16s": 30.0, "cold_process_seconds": 1.6}
"""Design figures on two idle cores."""

_CHORDS = ((57, 60, 64, 67), (53, 57, 60, 64), (48, 55, 60, 64), (55, 59, 62, 65))

_ROOT = Path(__file__).parents[1]
_COLD = """
import sys
from benchmarks.composer import house, render
render(house(8), 16.0)
print("numba" in sys.modules)
"""


def house(bars: int) -> Score:
    """Eight parts, all busy, with every send, ducking and filter movement in use."""
    beats = bars * 4
    drums = [Note(float(b), 0.25, 36, 0.9) for b in range(beats)]
    drums += [Note(float(b), 0.25, pitch, 0.8) for b in range(1, beats, 2) for pitch in (38, 39)]
    drums += [
        Note(k / 4, 0.1, 46 if k % 4 == 2 else 42, 0.5 + 0.1 * (k % 5)) for k in range(beats * 4)
    ]
    chord_of = [_CHORDS[bar % 4] for bar in range(bars)]
    held = [Note(bar * 4.0, 3.8, p, 0.8) for bar in range(bars) for p in chord_of[bar]]
    bass = [Note(k / 2, 0.45, chord_of[k // 8][0] - 24, 0.8) for k in range(beats * 2)]
    arp = [Note(k / 4, 0.2, chord_of[k // 16][k % 4] + 12, 0.7) for k in range(beats * 4)]
    lead = [Note(float(k), 0.8, (72, 74, 76, 79)[k % 4], 0.8) for k in range(beats)]
    rise = ((0.0, 0.3), (float(beats), 0.8))

    def part(name: str, role: Role, patch: str, notes: list[Note], **fields: Any) -> Part:
        return Part(name, role, patch, tuple(notes), **fields)

    parts = (
        part("drums", "drums", "kit-house", drums, reverb=0.1),
        part("bass", "bass", "bass-saw", bass, sidechain=0.6),
        part("chords", "chords", "keys-rhodes", held, reverb=0.2, sidechain=0.4, pan=-0.1),
        part("pad", "pad", "pad-supersaw", held, reverb=0.3, sidechain=0.7, brightness=rise),
        part("strings", "pad", "strings", held, reverb=0.3, gain_db=-3.0),
        part("lead", "lead", "lead-saw", lead, reverb=0.2, delay=0.3),
        part("arp", "arp", "arp-pluck", arp, reverb=0.15, delay=0.3, pan=0.3),
        part("riser", "texture", "noise-riser", [Note(beats - 8.0, 8.0, 60, 0.8)], reverb=0.2),
    )
    return Score(TEMPO_BPM, bars, Key(9, "minor"), "house", (), (), parts)


def render(score: Score, seconds: float) -> float:
    """Render, and return the seconds it took."""
    begin = time.perf_counter()
    render_score(
        score,
        sample_rate=SAMPLE_RATE,
        samples=round(seconds * SAMPLE_RATE),
        seed=1,
        progress=lambda *_: None,
        should_stop=lambda: False,
    )
    return time.perf_counter() - begin


def patch_costs(runs: int = 3) -> dict[str, float]:
    """Milliseconds of computing a second of each patch: a four-note chord, one bass, busy drums."""
    score = house(4)
    drums, bass, chords = score.part("drums"), score.part("bass"), score.part("chords")
    costs = {}
    for name in sorted(PATCHES):
        like = drums if name.startswith("kit-") else bass if name.startswith("bass-") else chords
        alone = replace(score, parts=(replace(like, patch=name, reverb=0.0),))
        costs[name] = min(render(alone, 8.0) for _ in range(runs)) / 8.0 * 1000.0
    return costs


def cold_process(runs: int = 3) -> float:
    """Seconds of a new interpreter that renders 16 s, its caches filled by a run before."""
    with tempfile.TemporaryDirectory() as bytecode:
        env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        env["PYTHONPYCACHEPREFIX"] = bytecode
        taken = []
        for _ in range(runs + 1):
            begin = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", _COLD], check=True, capture_output=True, env=env, cwd=_ROOT
            )
            taken.append(time.perf_counter() - begin)
    return min(taken[1:])


def measure(*, long: bool = True, runs: int = 5) -> dict[str, Any]:
    """Return all figures, JSON-ready; `long` includes the 180 s score."""
    short = house(8)
    render(short, 16.0)
    figures: dict[str, Any] = {
        "times_realtime_16s": 16.0 / min(render(short, 16.0) for _ in range(runs)),
        "cold_process_seconds": cold_process(),
        "patch_ms_per_second": patch_costs(),
        "targets": TARGETS,
    }
    if long:
        figures["times_realtime_180s"] = 180.0 / render(house(90), 180.0)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    as_json = parser.parse_args().json
    figures = measure()
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    print(f"8 parts,  16 s: {figures['times_realtime_16s']:6.1f} x realtime (target 30)")
    print(f"8 parts, 180 s: {figures['times_realtime_180s']:6.1f} x realtime")
    print(f"cold process, 16 s: {figures['cold_process_seconds']:.2f} s (target 1.6)")
    for name, cost in figures["patch_ms_per_second"].items():
        print(f"  {name:15s} {cost:6.2f} ms a second")


if __name__ == "__main__":
    main()
