"""The built-in engine: composes a score from a sentence and synthesises it. Needs no weights."""
