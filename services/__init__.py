"""DGX Music: a sentence becomes music a producer can drop into a DAW."""

__version__ = "0.1.0"
