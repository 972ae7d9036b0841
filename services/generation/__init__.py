"""Requests become jobs, jobs become files and rows."""
