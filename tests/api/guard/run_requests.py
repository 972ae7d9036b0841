"""POSTs from one address, all at once: run_requests.py COUNT.

Prints "ready", waits for the file `go` in its folder, and prints the number of accepted requests.
"""

import asyncio
import sys
import time
from pathlib import Path

import guarded_app
import httpx2 as httpx

from services.api.guard import assemble
from services.api.route_names import RouteNames
from services.config import load_settings
from services.database import open_database


async def send(count: int) -> int:
    app, bodies = guarded_app.make()
    guarded = assemble(app, load_settings(None), RouteNames(app))
    transport = httpx.ASGITransport(guarded, client=("203.0.113.7", 40000))
    headers = {"X-API-Key": "the-operators-key"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost", headers=headers
    ) as client:
        sent = (client.post("/api/v1/generate", json={}) for _ in range(count))
        statuses = [answer.status_code for answer in await asyncio.gather(*sent)]
    assert statuses.count(202) == len(bodies)
    assert statuses.count(429) == count - len(bodies)
    return len(bodies)


open_database(load_settings(None))
sys.stdout.write("ready\n")
sys.stdout.flush()
while not Path("go").exists():
    time.sleep(0.001)
sys.stdout.write(f"{asyncio.run(send(int(sys.argv[1])))}\n")
