"""The decoder's step and the sampling in C: built on the machine they run on, and optional."""
