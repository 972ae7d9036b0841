"""The built-in engine: composes a score from a prompt and synthesises it. It needs no weights."""
