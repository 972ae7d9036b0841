"""The machine: its GPU, free disk space, memory and processes."""
