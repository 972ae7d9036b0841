"""The transformer that predicts codes, on each kind of hardware."""
