"""Checkpoints of MusicGen: layout, loading and installation; random ones for tests."""
