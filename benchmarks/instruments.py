"""Play the songs of `benchmarks.songs`: additive, FM and noise instruments, or FluidSynth."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.songs import Song

    Signal = NDArray[np.float32]

RATE = 44_100
SOUNDFONTS = Path("/usr/share/sounds/sf2")
TICKS = 480
LONGEST_RENDER_SECONDS = 60.0
"""FluidSynth never ends with some damaged files, and fills the disk."""

_PARTIALS = {
    # partials, roll-off exponent, attack seconds, decay a second, extra decay a partial
    "fingered": (10, 1.6, 0.006, 1.5, 1.0),
    "synth": (16, 1.1, 0.004, 1.0, 0.8),
    "piano": (14, 1.3, 0.003, 1.2, 0.7),
    "organ": (8, 0.9, 0.012, 0.0, 0.0),
    "saw": (18, 1.0, 0.01, 0.3, 0.1),
    "square": (15, 1.0, 0.008, 0.5, 0.1),
    "strings": (14, 1.2, 0.12, 0.0, 0.0),
    "flute": (5, 1.9, 0.05, 0.1, 0.0),
    "pluck": (16, 1.0, 0.002, 2.0, 1.2),
}
_PROGRAMS = {
    "fingered": 33, "synth": 38, "piano": 0, "organ": 16, "saw": 29, "square": 80, "strings": 48,
    "flute": 73, "pluck": 24, "epiano": 4, "bell": 11,
}  # fmt: skip
_GM_DRUMS = {
    "kick": 36, "snare": 38, "clap": 39, "rim": 37, "hat": 42, "pedal": 44, "open": 46, "ride": 51,
    "clave": 75, "tom": 47, "shaker": 70,
}  # fmt: skip
_DRUMS = {
    # tone Hz, pitch drop Hz, tone decay a second, noise level, noise decay a second, lowest noise
    "kick": (48.0, 90.0, 9.0, 0.05, 80.0, 0.0),
    "snare": (185.0, 30.0, 25.0, 0.6, 18.0, 0.5),
    "clap": (0.0, 0.0, 1.0, 0.6, 22.0, 0.6),
    "rim": (820.0, 0.0, 70.0, 0.3, 90.0, 0.8),
    "hat": (0.0, 0.0, 1.0, 0.3, 60.0, 0.95),
    "pedal": (0.0, 0.0, 1.0, 0.25, 45.0, 0.95),
    "open": (0.0, 0.0, 1.0, 0.3, 12.0, 0.95),
    "ride": (0.0, 0.0, 1.0, 0.22, 9.0, 0.95),
    "clave": (2480.0, 0.0, 55.0, 0.0, 1.0, 0.0),
    "tom": (110.0, 40.0, 10.0, 0.1, 40.0, 0.0),
    "shaker": (0.0, 0.0, 1.0, 0.2, 40.0, 0.9),
}


def play(song: Song) -> Signal:
    """The song as `[2, samples]` at `RATE`, peak 0.7."""
    samples = round(song.seconds * RATE)
    mix = np.zeros((2, samples), np.float32)
    for event in song.events:
        if event.pitch:
            sound = _note(event.voice, event.pitch, round(event.seconds, 2), song.tuning_hz)
        else:
            sound = _drum(event.voice)
        start = round(event.start * RATE)
        sound = sound[: samples - start]
        right = 0.35 + 0.3 * (sum(map(ord, event.voice)) % 3) / 2
        gain = event.level * np.array([[1 - right], [right]], np.float32)
        mix[:, start : start + sound.size] += gain * sound
    return mix * np.float32(0.7 / np.abs(mix).max())


def soundfont() -> Path | None:
    """Return an installed SoundFont, or None without FluidSynth to play it."""
    found = sorted(SOUNDFONTS.glob("*.sf2")) if shutil.which("fluidsynth") else []
    return found[0] if found else None


def play_with(font: Path, song: Song) -> Signal:
    """The song as FluidSynth plays it, `[2, samples]` at `RATE`; always tuned to 440 Hz."""
    with tempfile.TemporaryDirectory() as folder:
        midi, wav = Path(folder, "song.mid"), Path(folder, "song.wav")
        midi.write_bytes(_midi(song))
        play_midi(font, midi, wav)
        frames, _ = soundfile.read(wav, dtype="float32", always_2d=True)
    return np.ascontiguousarray(frames[: round(song.seconds * RATE)].T)


def play_midi(font: Path, midi: Path, wav: Path) -> None:
    """Play a MIDI file into a WAV file at `RATE`."""
    command = ["fluidsynth", "-ni", "-q", "-g", "0.4", "-r", str(RATE), "-O", "float"]
    subprocess.run(
        [*command, "-F", str(wav), "-T", "wav", str(font), str(midi)],
        check=True,
        capture_output=True,
        timeout=LONGEST_RENDER_SECONDS,
    )


@lru_cache(maxsize=512)
def _note(voice: str, pitch: int, seconds: float, tuning_hz: float) -> Signal:
    hertz = tuning_hz * 2 ** ((pitch - 69) / 12)
    at = np.arange(int((seconds + 0.08) * RATE), dtype=np.float32) / RATE
    if voice in ("epiano", "bell"):
        ratio, depth = (1.0, 1.5) if voice == "epiano" else (3.5, 2.0)
        modulator = depth * np.exp(-5 * at) * np.sin(2 * np.pi * ratio * hertz * at)
        sound = np.sin(2 * np.pi * hertz * at + modulator) * np.exp(-1.8 * at)
        attack = 0.003
    else:
        partials, slope, attack, decay, extra = _PARTIALS[voice]
        sound = np.zeros_like(at)
        for partial in range(1, partials + 1, 2 if voice == "square" else 1):
            if partial * hertz < 0.4 * RATE:
                envelope = np.exp(-(decay + extra * (partial - 1)) * at) / partial**slope
                sound += envelope * np.sin(2 * np.pi * partial * hertz * at + pitch * partial)
    release = np.clip((seconds + 0.08 - at) / 0.08, 0, 1)
    return (sound * np.minimum(at / attack, 1) * release).astype(np.float32)


@lru_cache(maxsize=64)
def _drum(name: str) -> Signal:
    hertz, drop, tone_decay, noise_level, noise_decay, lowest = _DRUMS[name]
    at = np.arange(RATE // 2) / RATE
    sound = np.zeros_like(at)
    if hertz:
        phase = hertz * at + drop / 30 * (1 - np.exp(-30 * at))
        sound += np.sin(2 * np.pi * phase) * np.exp(-tone_decay * at)
    noise = np.random.default_rng(len(name)).standard_normal(at.size)
    # One-pole high-pass as a difference: 0 leaves the noise white, 1 takes its lows away.
    noise[1:] -= lowest * noise[:-1]
    return (sound + noise_level * noise * np.exp(-noise_decay * at)).astype(np.float32)


def _midi(song: Song) -> bytes:
    """A Standard MIDI File of format 0 at 120 BPM, times as they are."""
    channels = {voice: number for number, voice in enumerate(_PROGRAMS)}
    messages = [(0, bytes([0xC0 | _channel(n), _PROGRAMS[voice]])) for voice, n in channels.items()]
    for event in song.events:
        drum = not event.pitch
        channel = 9 if drum else _channel(channels[event.voice])
        pitch = _GM_DRUMS[event.voice] if drum else event.pitch
        velocity = max(1, min(127, round(40 + 80 * event.level)))
        start, end = (round(2 * TICKS * at) for at in (event.start, event.start + event.seconds))
        messages.append((start, bytes([0x90 | channel, pitch, velocity])))
        messages.append((max(end, start + 1), bytes([0x80 | channel, pitch, 0])))
    body, now = bytearray(), 0
    for tick, message in sorted(messages):
        body += _variable(tick - now) + message
        now = tick
    body += b"\x00\xff\x2f\x00"
    header = struct.pack(">4sIHHH", b"MThd", 6, 0, 1, TICKS)
    return header + struct.pack(">4sI", b"MTrk", len(body)) + bytes(body)


def _channel(number: int) -> int:
    return number if number < 9 else number + 1


def _variable(value: int) -> bytes:
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.insert(0, value & 0x7F | 0x80)
    return bytes(digits)
