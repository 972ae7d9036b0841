"""The decode loop: it steps all running requests together."""
