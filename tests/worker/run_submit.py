"""A program that queues a batch: run_submit.py PROMPT..."""

import sys

from queue_engines import registry

from services.config import load_settings
from services.jobs.models import parse_request
from services.jobs.service import MusicService

service = MusicService(load_settings(None), registry())
requests = [parse_request(prompt=prompt, duration=1) for prompt in sys.argv[1:]]
for job in service.submit_batch(requests):
    sys.stdout.write(f"{job.job_id}\n")
    sys.stdout.flush()
