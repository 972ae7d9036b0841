"""Health checks, figures for the metrics, and moving to another database."""
