"""Drum sounds: each is data, and `render` returns one hit, `[1 or 2, n]`, of any level."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import numpy as np
from numpy.typing import NDArray

from services.generation.composer.synth.effects import Reverb
from services.generation.composer.synth.filters import (
    apply_biquads,
    band_pass,
    high_pass,
    keep_band,
    low_pass,
)
from services.generation.composer.synth.kernels import Audio, partials
from services.generation.composer.synth.oscillators import noise

Wave = NDArray[np.float64]

# The six square oscillators of the TR-808's cymbals, Hz (measured from its schematic's values).
METAL_HZ = (205.3, 304.4, 369.6, 522.7, 540.0, 800.0)


@dataclass(frozen=True, slots=True)
class Hit:
    velocity: float
    """0..1."""
    rate: int
    rng: np.random.Generator

    @property
    def brightness(self) -> float:
        """Factor on levels and cutoffs of high frequencies: 1 at velocity 0.8."""
        return float(0.45 + 0.6875 * self.velocity)

    def seconds(self, length: float) -> Wave:
        """Return the time of each sample of a sound of `length` seconds."""
        return np.arange(int(length * self.rate)) / self.rate

    def vary(self, share: float) -> float:
        """Return a random factor within `share` of 1."""
        return float(1.0 + share * self.rng.uniform(-1.0, 1.0))


def decay_envelope(seconds: Wave, length: float, attack: float = 0.001) -> Wave:
    """Return levels: a rise in `attack` seconds, -60 dB after `length`, 0 at the end."""
    rise = np.sin(0.5 * pi * np.clip(seconds / attack, 0.0, 1.0)) ** 2
    tail = np.clip((seconds[-1] - seconds) / 0.01, 0.0, 1.0)
    return np.asarray(rise * np.exp(-6.9 * seconds / length) * tail, dtype=np.float64)


def _mono(wave: Wave) -> Audio:
    return np.ascontiguousarray(wave[np.newaxis], dtype=np.float32)


def _filtered_noise(strike: Hit, samples: int, low: float, high: float) -> Wave:
    hiss = keep_band(noise(strike.rng, 1, samples), strike.rate, low, high)[0]
    return np.asarray(hiss, dtype=np.float64)


def _saturate(wave: Wave, drive: float) -> Wave:
    return np.asarray(np.tanh(drive * wave) / np.tanh(drive), dtype=np.float64) if drive else wave


@dataclass(frozen=True, slots=True)
class Kick:
    """A sine that falls from `top` to `bottom` Hz, with a click."""

    top: float = 240.0
    bottom: float = 50.0
    fall: float = 0.028
    """Time constant of the fall, seconds."""
    length: float = 0.42
    click: float = 0.25
    click_hz: float = 3_500.0
    drive: float = 1.2
    thud: float = 0.0
    """Level of the noise of beater and skin."""

    def render(self, hit: Hit) -> Audio:
        t = hit.seconds(self.length * 1.05)
        knock = (self.top - self.bottom) * (0.6 + 0.5 * hit.velocity)
        snap = knock * 0.8 * np.exp(-t / (0.14 * self.fall))
        frequency = self.bottom + knock * np.exp(-t / self.fall) + snap
        body = np.sin(2.0 * pi * np.cumsum(frequency) / hit.rate)
        # The plateau before the decay gives the kick its weight.
        held = np.clip(1.0 - (t - 0.3 * self.length) / (0.75 * self.length), 0.0, 1.0) ** 2
        held = np.minimum(held, 1.0) * np.exp(-1.6 * t / self.length)
        wave = _saturate(body * held * np.clip(t / 0.0015, 0.0, 1.0), self.drive)
        if self.click > 0.0:
            tick = _filtered_noise(
                hit, t.size, 0.4 * self.click_hz, min(2.4 * self.click_hz, 16_000.0)
            )
            wave += self.click * hit.brightness * tick * decay_envelope(t, 0.022, 0.0005)
        if self.thud > 0.0:
            wave += (
                self.thud * _filtered_noise(hit, t.size, 90.0, 1_400.0) * decay_envelope(t, 0.11)
            )
        return _mono(wave * np.clip((t[-1] - t) / 0.02, 0.0, 1.0))


@dataclass(frozen=True, slots=True)
class Snare:
    """Two modes of the skin and the noise of the wires, with an optional gated reverb."""

    tones: tuple[float, float] = (185.0, 330.0)
    tone_length: float = 0.16
    tone: float = 0.6
    noise_length: float = 0.24
    noise_low: float = 1_200.0
    noise_high: float = 11_000.0
    noise: float = 0.55
    snap: float = 0.5
    drive: float = 1.0
    gate: float = 0.0
    """Seconds until the gate of a reverb shuts, 0 for no reverb."""

    def render(self, hit: Hit) -> Audio:
        t = hit.seconds(max(self.noise_length, self.tone_length) * 1.15)
        wave = np.zeros(t.size)
        for tone, level in zip(self.tones, (1.0, 0.6), strict=True):
            fall = tone * hit.vary(0.004) * (1.0 + 0.35 * np.exp(-t / 0.012))
            wave += level * np.sin(2.0 * pi * np.cumsum(fall) / hit.rate)
        wave *= self.tone * decay_envelope(t, self.tone_length)
        top = min(self.noise_high * hit.brightness, 18_000.0)
        wires = _filtered_noise(hit, t.size, self.noise_low, top)
        wave += self.noise * wires * decay_envelope(t, self.noise_length)
        wave += (
            self.snap
            * hit.brightness
            * _filtered_noise(hit, t.size, 2_500.0, top)
            * decay_envelope(t, 0.03, 0.0005)
        )
        out = _mono(_saturate(wave, self.drive))
        return add_gated_reverb(out, hit.rate, self.gate) if self.gate else out


def add_gated_reverb(audio: Audio, rate: int, hold: float) -> Audio:
    """Add a large bright reverb to `audio` `[1, n]`, gated after `hold` seconds: `[2, m]`."""
    samples = int((hold + 0.06) * rate)
    dry = np.zeros((2, max(samples, audio.shape[1])), dtype=np.float32)
    dry[:, : audio.shape[1]] = audio
    reverb = Reverb(seconds=2.4, brightness=0.6, predelay=0.004, low=220.0, high=10_000.0)
    t = np.arange(dry.shape[1]) / rate
    shut = np.clip((hold + 0.05 - t) / 0.05, 0.0, 1.0) ** 2
    return np.asarray(dry + 1.5 * reverb.render(dry, rate) * shut, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Clap:
    """A burst of noise for each of several hands, and a tail of band-passed noise."""

    centre: float = 1_250.0
    q: float = 1.0
    tail: float = 0.22
    spread: float = 0.011
    hands: int = 3

    def render(self, hit: Hit) -> Audio:
        t = hit.seconds(self.tail * 1.2 + self.spread * self.hands)
        level = np.zeros(t.size)
        for hand in range(self.hands):
            late = t - hand * self.spread * hit.vary(0.08)
            level += np.where(late >= 0.0, np.exp(-np.maximum(late, 0.0) / 0.0035), 0.0)
        late = t - self.hands * self.spread
        level += np.where(late >= 0.0, 0.8 * np.exp(-6.9 * np.maximum(late, 0.0) / self.tail), 0.0)
        level *= np.clip(t / 0.0008, 0.0, 1.0) * np.clip((t[-1] - t) / 0.01, 0.0, 1.0)
        middle = noise(hit.rng, 1, t.size)
        sides = noise(hit.rng, 1, t.size)
        raw = np.concatenate([middle + 0.5 * sides, middle - 0.5 * sides])
        tone = apply_biquads(raw.copy(), band_pass(self.centre, hit.rate, self.q))
        air = keep_band(raw, hit.rate, 2_000.0, 9_000.0 * hit.brightness)
        return np.asarray((tone + 0.25 * air) * level, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Hat:
    """The metal oscillators of the TR-808 and noise above a high pass."""

    length: float = 0.12
    low: float = 6_500.0
    metal: float = 0.6
    noise: float = 0.5
    pitch: float = 1.0
    high: float = 18_000.0
    attack: float = 0.0006
    width: float = 0.2
    """Level of noise of opposite sign on the two sides; it cancels in mono."""

    def render(self, hit: Hit) -> Audio:
        stretch = 0.6 + 0.5 * hit.velocity
        t = hit.seconds(self.length * 1.15 * stretch)
        cluster = np.zeros(t.size)
        for frequency in METAL_HZ:
            turns = frequency * 1.9 * self.pitch * hit.vary(0.003) * t + hit.rng.random()
            cluster += np.sign(np.sin(2.0 * pi * turns))
        raw = self.metal * cluster / 3.0 + self.noise * noise(hit.rng, 1, t.size)[0]
        sides = self.width * noise(hit.rng, 1, t.size)[0]
        top = min(self.high * (0.7 + 0.3 * hit.brightness), 0.44 * hit.rate)
        shaped = apply_biquads(
            np.stack([raw + sides, raw - sides]).astype(np.float32),
            high_pass(self.low, hit.rate, 0.9),
            high_pass(self.low * 0.8, hit.rate),
            low_pass(top, hit.rate),
        )
        level = decay_envelope(t, self.length * stretch, self.attack)
        return np.asarray(shaped * level, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Cymbal:
    """Many inharmonic modes in noise, spread over the sides."""

    length: float = 2.6
    low: float = 2_500.0
    ping: float = 0.0
    """Level of the bell of a ride."""
    wash: float = 1.0
    high: float = 16_000.0

    def render(self, hit: Hit) -> Audio:
        t = hit.seconds(self.length)
        modes = 90
        frequencies = (
            320.0
            * (1.0 + np.arange(modes) * 0.62) ** 0.98
            * (1.0 + 0.03 * hit.rng.standard_normal(modes))
        )
        frequencies = np.clip(frequencies, 200.0, 0.42 * hit.rate)
        lengths = self.length * (0.45 + 0.65 * np.exp(-frequencies / 9_000.0))
        sides = hit.rng.uniform(0.3, 1.0, (2, modes)) * hit.rng.choice([-1.0, 1.0], (1, modes))
        ringing = np.zeros((2, t.size), dtype=np.float32)
        omegas = 2.0 * pi * frequencies / hit.rate
        partials(ringing, omegas, np.exp(-6.9 / (lengths * hit.rate)), 0.11 * sides)
        wash = noise(hit.rng, 2, t.size) * (0.7 * np.exp(-5.5 * t / self.length))
        out = apply_biquads(
            np.asarray(ringing + self.wash * wash, dtype=np.float32),
            high_pass(self.low, hit.rate),
            high_pass(0.5 * self.low, hit.rate),
            low_pass(self.high * (0.6 + 0.4 * hit.brightness), hit.rate),
        )
        if self.ping > 0.0:
            bell = sum(np.sin(2.0 * pi * f * t) for f in (3_140.0, 4_730.0, 5_910.0))
            out += (self.ping * bell * decay_envelope(t, 0.7 * self.length)).astype(np.float32)
        return np.asarray(out * decay_envelope(t, 8.0 * self.length, 0.002), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Tom:
    """A skin whose pitch falls a little, with an optional gated reverb."""

    hertz: float = 110.0
    length: float = 0.4
    bend: float = 0.5
    skin: float = 0.12
    gate: float = 0.0

    def render(self, hit: Hit) -> Audio:
        t = hit.seconds(self.length * 1.1)
        frequency = self.hertz * hit.vary(0.004) * (1.0 + self.bend * np.exp(-t / 0.03))
        turns = 2.0 * pi * np.cumsum(frequency) / hit.rate
        wave = (np.sin(turns) + 0.18 * np.sin(1.59 * turns)) * decay_envelope(t, self.length)
        wave += (
            self.skin
            * hit.brightness
            * _filtered_noise(hit, t.size, 400.0, 5_000.0)
            * decay_envelope(t, 0.07)
        )
        out = _mono(np.tanh(1.3 * wave))
        return add_gated_reverb(out, hit.rate, self.gate) if self.gate else out


@dataclass(frozen=True, slots=True)
class Ping:
    """A few struck modes and a little noise: rim, claves, cowbell, mallet."""

    modes: tuple[float, ...] = (1_700.0, 520.0)
    length: float = 0.05
    noise: float = 0.15
    square: bool = False
    centre: float = 0.0
    """Hz of a band pass over the sound, 0 for none."""

    def render(self, hit: Hit) -> Audio:
        t = hit.seconds(self.length * 1.15)
        wave = np.zeros(t.size)
        for index, frequency in enumerate(self.modes):
            tone = np.sin(2.0 * pi * frequency * hit.vary(0.001) * t)
            if self.square:
                tone = tone + np.sin(6.0 * pi * frequency * t) / 3.0
            wave += tone / (1.0 + 0.5 * index) * decay_envelope(t, self.length)
        wave += (
            self.noise
            * hit.brightness
            * _filtered_noise(hit, t.size, 1_500.0, 9_000.0)
            * decay_envelope(t, 0.012)
        )
        out = _mono(wave)
        return apply_biquads(out, band_pass(self.centre, hit.rate, 0.9)) if self.centre else out


@dataclass(frozen=True, slots=True)
class Shaker:
    """Shaker or tambourine: band-passed noise that swells and stops, with optional jingles."""

    length: float = 0.09
    low: float = 5_000.0
    high: float = 12_000.0
    swell: float = 0.02
    jingles: float = 0.0

    def render(self, hit: Hit) -> Audio:
        t = hit.seconds(self.length * 1.2)
        wave = _filtered_noise(hit, t.size, self.low, min(self.high * hit.brightness, 19_000.0))
        if self.jingles > 0.0:
            for frequency in (6_480.0, 7_930.0, 9_210.0, 11_150.0):
                turns = frequency * hit.vary(0.01) * t + hit.rng.random()
                wave += self.jingles * np.sin(2.0 * pi * turns)
        return _mono(wave * decay_envelope(t, self.length, self.swell))


DrumSound = Kick | Snare | Clap | Hat | Cymbal | Tom | Ping | Shaker
