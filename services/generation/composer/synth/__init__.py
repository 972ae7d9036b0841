"""The synthesiser: renders a score to a mix and stems.

Instruments (drums, basses, keys, pads, leads, textures) are data over a few compiled loops.
"""

from services.generation.composer.synth.patches import PATCHES
from services.generation.composer.synth.render import RenderedScore, render_score

__all__ = ["PATCHES", "RenderedScore", "render_score"]
