"""What gives the figures of docs/benchmarks.md: `just benchmark [PART...]`."""
