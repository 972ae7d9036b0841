"""A server behind a proxy that offers it under a path of its own."""

from __future__ import annotations

import json

import httpx2 as httpx
import pytest
from pydantic import ValidationError

from services.config import Settings
from tests.conftest import LIMIT_SECONDS

pytestmark = pytest.mark.integration

API = "/music/api/v1"


@pytest.mark.parametrize("prefix", ["", "/music"], ids=["removed", "passed on"])
def test_links_begin_with_the_path_that_the_proxy_adds(sqlite_url_with_tables, serve, prefix):
    served = serve(sqlite_url_with_tables, api_root_path="/music/")
    address = str(served.client.base_url).removesuffix("/api/v1/")
    with httpx.Client(base_url=address, timeout=LIMIT_SECONDS) as client:
        accepted = client.post(f"{prefix}/api/v1/generate", json={"prompt": "sleep 0"})
        job_id = accepted.json()["job_id"]
        assert accepted.headers["location"] == f"{API}/jobs/{job_id}"
        waited = {"Prefer": "wait=60"}
        done = client.post(f"{prefix}/api/v1/generate", json={"prompt": "sleep 0"}, headers=waited)
        file_url = done.json()["file_url"]
        assert file_url == f"{API}/files/{done.json()['job_id']}.wav"
        assert client.get(prefix + file_url.removeprefix("/music")).status_code == 200
        with client.stream("GET", f"{prefix}/api/v1/jobs/{done.json()['job_id']}/events") as stream:
            data = next(line for line in stream.iter_lines() if line.startswith("data:"))
        assert json.loads(data[5:])["file_url"] == file_url
        missing = client.get(f"{prefix}/api/v1/jobs/none").json()
        assert missing["type"] == f"{API}/problems/not-found"
        document = client.get(f"{prefix}/api/v1/openapi.json").json()
        assert document["servers"] == [{"url": "/music/"}]


@pytest.mark.parametrize("root", ["/api", "/api/v1"])
def test_a_root_path_that_begins_as_the_routes_do_hides_none(sqlite_url_with_tables, serve, root):
    served = serve(sqlite_url_with_tables, api_root_path=root, worker=False)
    assert served.client.get("/health/live").status_code == 200
    address = str(served.client.base_url).removesuffix("/api/v1/")
    problem = httpx.get(f"{address}/api/v1/jobs/none", timeout=LIMIT_SECONDS).json()
    assert problem["type"] == f"{root}/api/v1/problems/not-found"


def test_without_a_proxy_links_begin_with_the_route(sqlite_api):
    accepted = sqlite_api.client.post("/api/v1/generate", json={"prompt": "sleep 0"})
    assert accepted.headers["location"].startswith("/api/v1/jobs/")


@pytest.mark.parametrize("path", ["music", "//", "/a/../b", "/a b", "https://host/music"])
def test_a_root_path_is_a_path(path):
    with pytest.raises(ValidationError, match="must be a path such as /music"):
        Settings(_env_file=None, api_root_path=path)
