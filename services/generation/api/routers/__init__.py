"""The routes, a module a noun; each has a `router` with paths below `/api/v1`."""
