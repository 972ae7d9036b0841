"""The files of deploy/ fit the code they start."""

import re
from pathlib import Path

import pytest
import yaml

from services.api.routers import health
from services.config import PREFIX, Settings, variable_of
from services.worker.hosting.host import STOP_GRACE_SECONDS

DEPLOY = Path(__file__).parents[2] / "deploy"
OPERATIONS = DEPLOY.parent / "docs" / "operations.md"
PATIENCE = Settings.model_fields["drain_seconds"].default + STOP_GRACE_SECONDS + 10


@pytest.mark.parametrize("unit", sorted(DEPLOY.glob("*.service")), ids=lambda path: path.name)
def test_a_unit_waits_for_longer_than_a_drain_and_signals_the_process_alone(unit):
    text = unit.read_text(encoding="utf-8")
    found = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert found is not None
    assert int(found[1]) > PATIENCE
    assert "KillMode=mixed" in text


@pytest.mark.parametrize("file", [*sorted(DEPLOY.glob("*.service")), DEPLOY / "Dockerfile"])
def test_a_service_is_not_at_home_in_the_checkout_that_it_runs_from(file):
    assert "DGX_MUSIC_HOME=/var/lib/dgx-music" in file.read_text(encoding="utf-8")


def test_the_containers_wait_for_longer_than_a_drain():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert set(services) == {"database", "api", "worker"}
    for name in ("api", "worker"):
        assert int(services[name]["stop_grace_period"].removesuffix("s")) > PATIENCE
        assert services[name]["depends_on"]["database"]["condition"] == "service_healthy"
    (live,) = (route.path for route in health.router.routes if route.path.endswith("/live"))
    assert f"/api/v1{live}" in services["api"]["healthcheck"]["test"][-1]


@pytest.mark.parametrize(
    "file", [*sorted(DEPLOY.iterdir()), OPERATIONS], ids=lambda file: file.name
)
def test_the_settings_they_name_exist(file):
    known = {variable_of(name) for name in Settings.model_fields}
    named = set(re.findall(rf"{PREFIX}[A-Z_]+", file.read_text(encoding="utf-8")))
    assert named <= known


def test_every_metric_is_documented():
    api = DEPLOY.parent / "services" / "api"
    code = "".join((api / name).read_text() for name in ("metrics.py", "http_metrics.py"))
    documented = set(re.findall(r"^\| `(dgx_music_\w+)", OPERATIONS.read_text(), re.MULTILINE))
    made = set(re.findall(r'"(dgx_music_\w+)"', code))
    assert made == {name.removesuffix("_total") for name in documented}
