"""The step of the decoder in C: built on the machine it runs on, and never required."""
