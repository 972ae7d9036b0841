"""Checkpoints of MusicGen: their layout, loading, installation, and random ones for tests."""
