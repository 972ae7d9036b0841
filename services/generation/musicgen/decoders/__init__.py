"""The transformer that predicts codes: one decoder per kind of hardware."""
