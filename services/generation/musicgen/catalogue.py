"""The published MusicGen models: repository, pinned commit, shape and size. No torch.

Every installation of a release gets the commits that the release was tested with.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from services.errors import EngineUnavailableError
from services.generation.engine import EngineFacts
from services.generation.musicgen.decoders.memory_plan import BUCKETS
from services.generation.musicgen.geometry import Geometry

SAMPLE_RATE = 32_000
"""Hz, for all published models."""

WEIGHTS_LICENCE = "CC-BY-NC-4.0"
"""SPDX identifier of the licence of the weights and of all music made with them."""

LICENCE_SENTENCE = (
    "Meta publishes the MusicGen weights under CC-BY-NC-4.0: use them, and the music made with "
    "them, for non-commercial purposes only, and name the source."
)

SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 300.0
"""Limits of a take; past 30 s a model continues its own music in windows."""

_VERSION = "1"
"""Increased when the same request gives different audio than before."""

_TEXT_ENCODER_BYTES = 438_514_176
_CODEC_BYTES = 236_001_935
_TEXT_WIDTH = 768
_CHROMA = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedModel:
    """One published checkpoint, or one of the same architecture that somebody has added."""

    name: str
    """As in requests: musicgen-small."""
    repository: str
    """On the Hugging Face hub."""
    revision: str | None
    """The commit to install; None installs the newest and records which one it was."""
    geometry: Geometry
    description: str
    licence: str = WEIGHTS_LICENCE
    """SPDX identifier of the licence of the music."""
    is_added: bool = False
    """Whether it was added on this machine and is on no hub."""

    @property
    def install_command(self) -> str:
        """The command that installs it, or repairs it."""
        if self.is_added:
            return f"dgx-music models add {self.name} FOLDER --licence '{self.licence}' --force"
        return f"dgx-music models install {self.name}"

    @property
    def takes_melody(self) -> bool:
        return not self.geometry.cross_attention

    @property
    def decoder_parameters(self) -> int:
        """Parameters of the decoder and of the projections into it."""
        shape = self.geometry
        norms = 6 if shape.cross_attention else 4
        attention = 8 if shape.cross_attention else 4
        layer = (attention * shape.hidden + 2 * shape.ffn + norms) * shape.hidden
        tokens = shape.codebooks * (2 * shape.codebook_size + 1) * shape.hidden
        projection = (_TEXT_WIDTH + 1) * shape.hidden
        melody = (_CHROMA + 1) * shape.hidden if self.takes_melody else 0
        return shape.layers * layer + tokens + 2 * shape.hidden + projection + melody

    @property
    def download_bytes(self) -> int:
        """Size of the weights as float32; a file in half precision has half of it."""
        return 4 * self.decoder_parameters + _TEXT_ENCODER_BYTES + _CODEC_BYTES

    @property
    def facts(self) -> EngineFacts:
        """The facts of its engine at the pinned commit."""
        return self.facts_at(self.revision)

    def facts_at(self, revision: str | None) -> EngineFacts:
        """Return the facts at another commit, or at an unknown one for None."""
        commit = "" if revision is None else f"+{revision[:8]}"
        return EngineFacts(
            name=self.name,
            version=f"{_VERSION}{commit}",
            description=self.description,
            output_licence=self.licence,
            sample_rate=SAMPLE_RATE,
            channels=self.geometry.channels,
            shortest_seconds=SHORTEST_SECONDS,
            longest_seconds=LONGEST_SECONDS,
            concurrent=BUCKETS[-1],
            takes_melody=self.takes_melody,
            takes_continuation=True,
        )


_SIZES = {"small": (24, 1024, 16), "medium": (48, 1536, 24), "large": (48, 2048, 32)}


def _model(name: str, size: str, revision: str | None, description: str) -> PublishedModel:
    layers, hidden, heads = _SIZES[size]
    channels = 2 if "stereo" in name else 1
    return PublishedModel(
        name=name,
        repository=f"facebook/{name}",
        revision=revision,
        description=description,
        geometry=Geometry(
            layers=layers,
            hidden=hidden,
            heads=heads,
            ffn=4 * hidden,
            codebooks=4 * channels,
            codebook_size=2048,
            channels=channels,
            cross_attention="melody" not in name,
            max_positions=2048,
        ),
    )


_ALL = (
    _model(
        "musicgen-small",
        "small",
        "4c8334b02c6ec4e8664a91979669a501ec497792",
        "MusicGen small (300M), for a machine without a GPU.",
    ),
    _model(
        "musicgen-medium",
        "medium",
        "d3bd7b00761b78ad7a8a05145ee31e7832e9916c",
        "MusicGen medium (1.5B).",
    ),
    _model(
        "musicgen-large",
        "large",
        "15ccdc92099879e47b6da12c350cdb71d4eab3ca",
        "MusicGen large (3.3B).",
    ),
    _model(
        "musicgen-stereo-small",
        "small",
        "3a110c0092820d470372c880c5ea06ce21a78ddd",
        "MusicGen small in stereo.",
    ),
    _model(
        "musicgen-stereo-medium",
        "medium",
        "2747e613fbaadc43b14257224326ef58c5c11b81",
        "MusicGen medium in stereo.",
    ),
    _model(
        "musicgen-stereo-large",
        "large",
        "bda8ec330c9c17e09728589eaf678f58f7d2d932",
        "MusicGen large in stereo.",
    ),
    _model(
        "musicgen-melody",
        "medium",
        "68d653a95788ec0d2b0abccab22c0b3a200c2d90",
        "MusicGen medium that follows a melody you give.",
    ),
    _model(
        "musicgen-melody-large",
        "large",
        "6fdf8d3d815995108c9bdb5183414ff464b171ac",
        "MusicGen large that follows a melody you give.",
    ),
    _model(
        "musicgen-stereo-melody",
        "medium",
        "022c3bd20a7d77e7c014082f0391bcbcd3940a7a",
        "MusicGen medium in stereo that follows a melody you give.",
    ),
    _model(
        "musicgen-stereo-melody-large",
        "large",
        "eea14861e6c29c47aea1055982a217468cd1634d",
        "MusicGen large in stereo that follows a melody you give.",
    ),
)

MODELS: Mapping[str, PublishedModel] = MappingProxyType({model.name: model for model in _ALL})
"""By name, in the order in which `auto` prefers them."""


def published_model(name: str) -> PublishedModel:
    """Return the model of a name, which may be short (`small`) or full (`facebook/musicgen-small`).

    Raises:
        EngineUnavailableError: no model has the name; the message suggests the nearest one.
    """
    bare = name.strip().lower().removeprefix("facebook/")
    for candidate in (bare, f"musicgen-{bare}"):
        if candidate in MODELS:
            return MODELS[candidate]
    short = bare.removeprefix("musicgen-")
    known = {name.removeprefix("musicgen-"): name for name in MODELS}
    near = difflib.get_close_matches(short, known, n=1, cutoff=0.5)
    hint = f"Did you mean {known[near[0]]!r}?" if near else f"The models: {', '.join(MODELS)}."
    raise EngineUnavailableError(f"There is no published MusicGen model {name!r}. {hint}")
