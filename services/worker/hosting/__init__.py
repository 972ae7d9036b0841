"""The process an engine runs in, seen from the worker and from inside."""
