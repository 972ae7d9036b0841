"""The worker: a process that runs queued jobs."""
