"""The neural engine: MusicGen from its published checkpoints, with a decode loop of our own.

transformers provides the configuration, T5, EnCodec and the tests' reference; decoders/ and loop/
are ours. Import it only for a MusicGen model: importing torch takes seconds.
"""

import os

from services.generation.musicgen.decoders.native.build import is_available

# After an operation, torch's OpenMP threads spin for milliseconds on the cores that the native step
# needs next, and it takes twice as long. The PyTorch back ends, though, are a tenth faster with
# spinning. The variable is read once, when torch is first imported.
if "OMP_WAIT_POLICY" not in os.environ and is_available():
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# Huge pages for large tensors: every step reads all weights, and page-table look-ups took 10 to
# 20 % of that time. This variable is read once as well.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
