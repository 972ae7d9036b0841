"""The core set-up does not install it, and numba takes a third of a second to import it."""

raise ModuleNotFoundError(f"No module named {__name__!r}", name=__name__)
