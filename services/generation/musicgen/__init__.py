"""The neural engine: MusicGen from its published checkpoints, decoded by a loop of our own.

transformers gives the configuration, T5, EnCodec and the oracle of the tests; `decoder.py` and what
it uses is ours. Nothing here is imported before a MusicGen model is asked for: torch takes seconds.
"""
