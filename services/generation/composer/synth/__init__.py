"""The sound of the composer: a score becomes stems and a mix.

Instruments (drums, basses, keys, pads, leads, textures) are data over a few compiled loops;
`PATCHES` names them, `render_score` plays them.
"""

from services.generation.composer.synth.patches import PATCHES
from services.generation.composer.synth.render import RenderedScore, render_score

__all__ = ["PATCHES", "RenderedScore", "render_score"]
