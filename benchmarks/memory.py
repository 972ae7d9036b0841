"""Peak memory of the audio commands on a long file, each in a process of its own."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = "400 MB"
PROGRAM = Path(sys.executable).parent / "dgx-music"


def commands(source: str) -> dict[str, tuple[str, ...]]:
    return {
        "analyze, with a spectrogram": ("analyze", source, "--json", "--spectrogram", "a.png"),
        "normalize to WAV, limiting": ("normalize", source, "normalized.wav", "--lufs", "-14"),
        "normalize to FLAC, gain alone": ("normalize", source, "normalized.flac", "--lufs", "-23"),
        **{
            f"convert to {name}": ("convert", source, f"converted.{name}")
            for name in ("flac", "mp3", "ogg", "opus")
        },
    }


def write_long(path: str, seconds: int) -> None:
    import soundfile

    from benchmarks.audio import RATE, music

    minute = music(60).T
    with soundfile.SoundFile(path, "w", RATE, 2, "PCM_24") as file:
        for start in range(0, seconds, 60):
            file.write(minute[: min(60, seconds - start) * RATE])


def measured(arguments: tuple[str, ...], folder: Path) -> tuple[float, int]:
    """Seconds, and peak resident bytes of the process."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [PROGRAM, *arguments],
        cwd=folder,
        env=os.environ | {"DGX_MUSIC_HOME": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"dgx-music {' '.join(arguments)} failed.")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.memory", description=__doc__)
    parser.add_argument("--minutes", type=int, default=10, help="length of the file")
    parser.add_argument("--write", help="only write that file")
    options = parser.parse_args()
    if options.write:
        write_long(options.write, 60 * options.minutes)
        return
    print(f"{options.minutes} minutes, stereo, 48000 Hz, 24 bit; to hold: at most {LIMIT}")
    with tempfile.TemporaryDirectory() as folder:
        # A forked process starts with its parent's memory, so the parent stays small.
        write = ("--write", f"{folder}/long.wav", "--minutes", str(options.minutes))
        subprocess.run([sys.executable, "-m", "benchmarks.memory", *write], check=True)
        for what, arguments in commands("long.wav").items():
            seconds, peak = measured(arguments, Path(folder))
            print(f"{what:32} {peak / 1e6:6.0f} MB {seconds:8.1f} s")


if __name__ == "__main__":
    main()
