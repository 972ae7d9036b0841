"""Sessions: time to write one of twelve tracks in each format: python -m benchmarks.sessions."""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from services.audio.facts import TakeFacts
from services.audio.wav import write_wav
from services.daw.building import TakeInput, build_session
from services.daw.sources import SourceFile
from services.daw.writers import WRITERS

if TYPE_CHECKING:
    from services.daw.session import Session

RATE = 48_000
TRACKS = 12
TEMPO_BPM = 120.0
MOST_SECONDS = 5.0


def make_session(folder: Path, seconds: float) -> Session:
    """Write a mix and its stems as 24-bit stereo files, with digests, and build their session."""
    noise = np.random.default_rng(0)
    files = []
    for number in range(TRACKS):
        path = folder / f"{number}.wav"
        sound = noise.uniform(-0.05, 0.05, (2, round(seconds * RATE))).astype(np.float32)
        write_wav(path, sound, RATE, bit_depth="PCM_24")
        with path.open("rb") as file:
            files.append(SourceFile(path, hashlib.file_digest(file, "sha256").hexdigest()))
    stems = {f"stem {number}": file for number, file in enumerate(files[1:], 1)}
    facts = TakeFacts(bpm=TEMPO_BPM, prompt="a benchmark")
    return build_session("session", [TakeInput(name="t", mix=files[0], stems=stems, facts=facts)])


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.sessions", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="of each track")
    parser.add_argument("--folder", type=Path, help="on the disk to write to")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        session = make_session(folder, chosen.seconds)
        # Otherwise the first session also waits for these files.
        os.sync()
        megabytes = sum(source.bytes for source in session.sources) / 1e6
        print(f"{TRACKS} stereo tracks of {chosen.seconds:g} s, 24 bit: {megabytes:.0f} MB")
        for format_name, write in WRITERS.items():
            spent, worked = [], []
            for _ in range(3):
                start, work = time.perf_counter(), time.process_time()
                write(session, folder / "out")
                spent.append(time.perf_counter() - start)
                worked.append(time.process_time() - work)
                shutil.rmtree(folder / "out")
            times = f"{min(spent):.2f} s, median {sorted(spent)[1]:.2f} s"
            print(f"{format_name:<11} {times}, of the processor {min(worked):.2f} s")
        print(f"to hold: {MOST_SECONDS:g} s each")


if __name__ == "__main__":
    main()
