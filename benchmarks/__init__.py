"""The benchmarks behind docs/benchmarks.md: `just benchmark [PART...]`."""
