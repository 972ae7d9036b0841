"""A server under test: `run_server.py [worker]`; the settings are in the environment."""

from __future__ import annotations

import logging
import sys

import queue_engines

from services.api.server import serve
from services.config import load_settings
from services.worker.worker import Worker

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
settings = load_settings(None)
registry = queue_engines.registry()
inside = "worker" in sys.argv[1:]
worker = Worker(settings, registry, registry_source="queue_engines:registry") if inside else None
serve(settings, registry, host="127.0.0.1", port=0, worker=worker)
