"""Formats: time, size and peak overshoot of encoding: python -m benchmarks.formats."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import soundfile

from benchmarks.audio import best, music
from services.audio.encoding import FORMATS, encode
from services.audio.export import AudioExporter
from services.audio.loudness import decibels, measure_loudness
from services.audio.mastering import master
from services.audio.reading import open_audio
from services.audio.sources import ArraySource
from services.audio.truepeak import short_filter_peak, true_peak
from services.audio.wav import write_wav

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RATE = 48_000
SECONDS = 30
LEVELS = (-16.0, -14.0, -9.0)
CEILING_DBTP = -1.0
LONG_MINUTES = 10
MOST_MEMORY_MB = 400

CONVERT = """
import sys
from pathlib import Path
from services.audio.conversion import convert_file
convert_file(sys.argv[1], sys.argv[2])
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""
"""Prints the most memory it had, in kB; `getrusage` counts that of the process above as well."""


@dataclass(frozen=True)
class Row:
    """One format at one loudness."""

    name: str
    target_lufs: float
    encode_ms: float
    """Encoding alone."""
    export_ms: float
    """Mastering, encoding and measuring, until the decoded file has its levels."""
    kbps: float
    alone_db: float
    """Decoded peak over the ceiling after encoding the master once."""
    delivered_db: float
    """The same for the delivered file."""
    delivered_lu: float
    """Its loudness over the target."""


def over_ceiling(path: Path) -> float:
    """Decoded peak in dB over the ceiling, by the higher of both readings."""
    file = open_audio(path)
    audio, rate = file.read(), file.sample_rate
    return decibels(max(true_peak(audio, rate), short_filter_peak(audio, rate))) - CEILING_DBTP


def encode_once(path: Path, audio: NDArray[np.float32]) -> None:
    kind = FORMATS[path.suffix.removeprefix(".")]
    if kind.name == "wav":
        write_wav(path, audio, RATE)
    else:
        encode(path, ArraySource(audio, RATE), kind)


def measure(path: Path, target: float, seconds: int, repeats: int) -> Row:
    audio = music(seconds)
    mastered = master(audio, RATE, target, CEILING_DBTP).audio
    encode_seconds = best(lambda: encode_once(path, mastered), repeats)
    alone = over_ceiling(path)
    exporter = AudioExporter(target, CEILING_DBTP)
    export_seconds = best(lambda: exporter.export(audio, path, RATE), repeats)
    heard = open_audio(path)
    loudness = measure_loudness(heard.read(), heard.sample_rate)
    return Row(
        name=path.suffix.removeprefix("."),
        target_lufs=target,
        encode_ms=encode_seconds * 1000,
        export_ms=export_seconds * 1000,
        kbps=heard.bytes * 8 / seconds / 1000,
        alone_db=alone,
        delivered_db=over_ceiling(path),
        delivered_lu=loudness.integrated_lufs - target,
    )


def run(seconds: int = SECONDS, repeats: int = 3) -> Iterator[Row]:
    """Every format at every loudness."""
    with tempfile.TemporaryDirectory() as folder:
        for target in LEVELS:
            for name in FORMATS:
                yield measure(Path(folder) / f"take.{name}", target, seconds, repeats)


def conversions(minutes: int, names: Sequence[str] = tuple(FORMATS)) -> Iterator[tuple[str, int]]:
    """Each format with the memory in MB of a process that converts a long WAV file to it."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "long.wav"
        minute = music(60).T
        with soundfile.SoundFile(source, "w", RATE, 2, "PCM_16") as file:
            for _ in range(minutes):
                file.write(minute)
        for name in names:
            command = [sys.executable, "-c", CONVERT, str(source), f"{folder}/copy.{name}"]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            yield name, int(output) // 1000


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.formats", description=__doc__)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="length of the audio")
    parser.add_argument("--repeats", type=int, default=3, help="runs, of which the best counts")
    parser.add_argument(
        "--minutes", type=int, default=LONG_MINUTES, help="length of the converted file; 0 for none"
    )
    options = parser.parse_args()
    print(f"stereo, {RATE} Hz, {options.seconds} s; best of {options.repeats}")
    print("format  LUFS   encode   export    kb/s  peak over ceiling  delivered  loudness")
    for row in run(options.seconds, options.repeats):
        print(
            f"{row.name:6} {row.target_lufs:5.0f} {row.encode_ms:5.0f} ms {row.export_ms:5.0f} ms "
            f"{row.kbps:7.0f} {row.alone_db:+15.2f} dB {row.delivered_db:+7.2f} dB "
            f"{row.delivered_lu:+6.2f} LU"
        )
    if options.minutes:
        for name, megabytes in conversions(options.minutes):
            print(
                f"{options.minutes} minutes of WAV to {name}: {megabytes} MB of memory"
                f"  at most {MOST_MEMORY_MB} MB"
            )


if __name__ == "__main__":
    main()
