"""What happens to a request: accepted, queued, made, published, shown."""
