"""A process that makes the jobs of the queue."""
