"""A worker with the engine of these tests: run_worker.py [CONCURRENCY [MODELS]]."""

import logging
import sys

from queue_engines import registry

from services.config import load_settings
from services.worker.worker import Worker, run_worker

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
settings = load_settings(None)
arguments = sys.argv[1:]
worker = Worker(
    settings,
    registry(),
    concurrency=int(arguments[0]) if arguments else 1,
    models=arguments[1].split(",") if len(arguments) > 1 else None,
    registry_source="queue_engines:registry",
)
run_worker(worker, settings.drain_seconds)
