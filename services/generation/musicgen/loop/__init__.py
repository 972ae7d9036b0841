"""The loop that steps all running requests together."""
