"""The REST API (docs/api.md): FastAPI over `MusicService`, a router a noun."""
