"""The neural engine: MusicGen from its published checkpoints, decoded by a loop of our own.

transformers gives the configuration, T5, EnCodec and the oracle of the tests; `decoder.py` and what
it uses is ours. Nothing here is imported before a MusicGen model is asked for: torch takes seconds.
"""

import os

from services.generation.musicgen.decoders.native.build import can_be_had

# After an operation the threads of torch's OpenMP spin for milliseconds, in the cores in which the
# native step then wants to run: it would take twice as long. Torch's own back ends take a tenth
# less where they spin. It is read once, when torch is first imported.
if "OMP_WAIT_POLICY" not in os.environ and can_be_had():
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# Large tensors on huge pages: weights are read from one end to the other at every step, and a tenth
# to a fifth of that time went to looking pages up. This, too, is read once.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
