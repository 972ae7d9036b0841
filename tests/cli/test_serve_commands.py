"""`dgx-music serve` and `worker`: options, refusals and announcements, without a server."""

import logging
import signal
import threading

import pytest

from services.api import server
from services.generation import registry
from services.generation.registry import EngineEntry, Registry
from services.machine import memory
from services.worker import worker as worker_module
from tests.conftest import wait_until
from tests.generation.test_trial import FACTS, Tone

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def unchanged_process(monkeypatch):
    """Leave no thread, no option of malloc and no handler of logging behind."""
    monkeypatch.setattr(memory, "limit_memory_growth", lambda: None)
    monkeypatch.setattr(worker_module, "StoppedWorkerKiller", lambda _ttl: None)
    loggers = [logging.getLogger(), logging.getLogger("services")]
    kept = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, level, handlers in kept:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture
def served(monkeypatch):
    """The arguments that `serve` would run the server with."""
    calls = []

    def record(settings, _registry, **options):
        options["announce"]("http://127.0.0.1:8000")
        calls.append({"settings": settings} | options)

    monkeypatch.setattr(server, "serve", record)
    return calls


@pytest.fixture
def working(monkeypatch):
    """The workers that `worker` would run, and their time to drain."""
    calls = []
    monkeypatch.setattr(worker_module, "run_worker", lambda *given: calls.append(given))
    entries = {"tone": EngineEntry(FACTS, Tone, lambda: None)}
    monkeypatch.setattr(registry, "default_registry", lambda _settings: Registry(entries))
    return calls


def test_server_listens_where_the_settings_say(home, served):
    home.environment |= {"DGX_MUSIC_API_HOST": "::1", "DGX_MUSIC_API_PORT": "9000"}
    assert home.call("serve", "--no-worker").returncode == 0
    (options,) = served
    assert (options["host"], options["port"], options["worker"]) == ("::1", 9000, None)


def test_flags_of_the_server_win_over_the_settings_even_with_port_0(home, served):
    home.environment |= {"DGX_MUSIC_API_HOST": "::1", "DGX_MUSIC_API_PORT": "9000"}
    home.call("serve", "--no-worker", "--host", "127.0.0.2", "--port", "0")
    (options,) = served
    assert (options["host"], options["port"]) == ("127.0.0.2", 0)


def test_root_path_and_json_log_are_options(home, served):
    result = home.call("serve", "--no-worker", "--root-path", "/music/", "--json")
    (options,) = served
    assert options["settings"].api_root_path == "/music"
    assert result.stderr == ""
    refused = home.call("serve", "--no-worker", "--root-path", "music")
    assert refused.returncode == 2
    assert "must be a path such as /music" in refused.stderr


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_an_interrupted_start_exits_with_0(home, monkeypatch, command):
    def interrupt(_settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "default_registry", interrupt)
    # A thread that another test has left would end the process of the tests at once.
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.main_thread()])
    result = home.call(command)
    assert (result.returncode, result.stderr) == (0, "Stopped.\n")


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_signal_during_the_start_is_no_failure(home, command):
    log = home.path / "log"
    process = home.start(command, stdout=log, stderr=log)
    wait_until(lambda: home.database.exists() or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def test_server_has_a_worker_inside(home, served):
    home.call("serve", "--concurrency", "3")
    (options,) = served
    assert "composer" in options["worker"].models


@pytest.mark.parametrize(("log_format", "notes"), [("text", 1), ("json", 0), ("auto", 0)])
def test_address_is_noted_unless_the_log_is_json(home, served, log_format, notes):
    home.environment["DGX_MUSIC_LOG_FORMAT"] = log_format
    result = home.call("serve", "--no-worker")
    assert result.stderr.count("Press Ctrl-C to stop.") == notes
    assert result.stdout == ""


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_impossible_port_is_refused(home, served, port):
    assert home.call("serve", f"--port={port}").returncode == 2
    assert served == []


def test_server_on_a_public_address_needs_a_key(home):
    # A process: the refusal comes after the server's threads have started.
    result = home.run("serve", "--no-worker", "--host", "0.0.0.0")
    assert (result.returncode, result.stdout) == (2, "")
    assert "key" in result.stderr
    assert "Traceback" not in result.stderr


def test_worker_takes_all_models_of_the_machine_or_the_named_ones(home, working):
    for arguments in ((), ("--models", " tone ")):
        result = home.call("worker", *arguments)
        assert result.returncode == 0
        assert "runs jobs for tone. Press Ctrl-C to stop." in result.stderr
    assert [list(worker.models) for worker, _ in working] == [["tone"]] * 2


def test_worker_drains_for_as_long_as_the_settings_say(home, working):
    home.environment["DGX_MUSIC_DRAIN_SECONDS"] = "5"
    home.call("worker")
    ((_, seconds),) = working
    assert seconds == 5.0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--models", "tune"), 4),
        (("--models", ","), 4),
        (("--concurrency", "0"), 2),
        (("--concurrency", "two"), 2),
    ],
)
def test_impossible_worker_is_refused(home, working, arguments, code):
    result = home.call("worker", *arguments)
    assert (result.returncode, result.stdout, working) == (code, "", [])
    assert "Traceback" not in result.stderr


def test_unknown_model_is_refused_with_the_nearest_name(home):
    result = home.call("worker", "--models", "compose")
    assert result.returncode == 4
    assert "Did you mean 'composer'?" in result.stderr
