"""The REST API (docs/api.md): FastAPI routes over `MusicService`."""
