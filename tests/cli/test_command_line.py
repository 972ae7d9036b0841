"""The edge of the process: errors become sentences and exit codes."""

import gc
import logging
import os
import signal
import subprocess
import sys
import threading

import pytest

from services import __version__, cli, config, errors
from services.errors import CancelledError, InvalidRequestError
from tests.conftest import LIMIT_SECONDS


@pytest.fixture(autouse=True)
def kept_process_state(monkeypatch):
    monkeypatch.setattr(gc, "freeze", lambda: None)
    # A thread that another test has left would end the process of the tests at once.
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.main_thread()])
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    kept = {number: signal.getsignal(number) for number in numbers}
    umask = os.umask(0o022)
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    os.umask(umask)
    for number, handler in kept.items():
        signal.signal(number, handler)


def run_main(monkeypatch, error: BaseException, *arguments: str) -> int:
    """Run `main` with an app that raises, and return the exit code."""

    def app() -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr("sys.argv", ["dgx-music", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_ctrl_c_while_the_command_is_imported_shows_no_traceback(home):
    slow = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(600)\n"
    (home.path / "typer.py").write_text(slow)
    ended = subprocess.run(
        home.command("--version"),
        env=home.full_environment() | {"PYTHONPATH": str(home.path)},
        capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_error_is_one_sentence_with_its_exit_code(monkeypatch, capsys):
    assert run_main(monkeypatch, InvalidRequestError("Say more.")) == 2
    assert capsys.readouterr() == ("", "error: Say more.\n")


@pytest.mark.parametrize(
    "error", [item for item in vars(errors).values() if isinstance(item, type)]
)
def test_every_error_exits_with_its_code(monkeypatch, capsys, error):
    assert run_main(monkeypatch, error("Say more.")) == error.exit_code
    assert capsys.readouterr().err.endswith("Say more.\n")


def test_cancellation_is_not_called_an_error(monkeypatch, capsys):
    assert run_main(monkeypatch, CancelledError("Cancelled.")) == 130
    assert capsys.readouterr() == ("", "Cancelled.\n")


def test_unexpected_error_shows_its_traceback_only_with_debug(monkeypatch, capsys):
    assert run_main(monkeypatch, ZeroDivisionError("one over nothing")) == 1
    shown = capsys.readouterr().err
    assert "ZeroDivisionError: one over nothing" in shown
    assert "--debug" in shown
    assert "Traceback" not in shown
    assert run_main(monkeypatch, ZeroDivisionError("one over nothing"), "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_debug_shows_the_traceback_of_a_refusal_too(monkeypatch, capsys):
    assert run_main(monkeypatch, InvalidRequestError("Say more."), "--debug") == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("error: Say more.\n")


def test_sigterm_interrupts_like_ctrl_c_and_an_ignored_hangup_stays_ignored(monkeypatch, capsys):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    run_main(monkeypatch, InvalidRequestError("Say more."))
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_debug_logs_more(home, monkeypatch):
    asked = []
    monkeypatch.setattr(logging, "basicConfig", lambda **how: asked.append(how["level"]))
    assert home.call("--debug", "--version").returncode == 0
    assert home.call("--debug", "files", "stats").returncode == 0
    assert asked == [logging.DEBUG]


def test_version_is_shown(home):
    assert home.call("--version").stdout == f"dgx-music {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("analyze", "gone.wav"),
        ("normalize", "gone.wav", "out.wav"),
        ("convert", "gone.wav", "out.wav"),
        ("benchmark", "--seconds", "none"),
        ("db", "backup", "copy.db"),
        ("db", "check"),
        ("db", "cleanup"),
        ("db", "init"),
        ("db", "move", "--to", "oracle://host/db"),
        ("db", "restore", "gone.db"),
        ("db", "stats"),
        ("files", "check"),
        ("files", "cleanup", "--older-than", "1"),
        ("files", "stats"),
        ("generate", "calm piano", "--model", "gone"),
        ("history",),
        ("keys", "create", "laptop"),
        ("keys", "list"),
        ("keys", "revoke", "gone"),
        ("models", "install", "gone"),
        ("models", "test", "gone"),
        ("status", "gone"),
    ],
    ids=" ".join,
)
def test_command_loads_the_settings_once_at_most(home, monkeypatch, arguments):
    calls = []
    load = config.load_settings
    monkeypatch.setattr(config, "load_settings", lambda: calls.append(1) or load())
    home.call(*arguments)
    assert len(calls) <= 1


BUSY = """
import atexit, sys, time
from concurrent.futures import ThreadPoolExecutor
from services import cli

ThreadPoolExecutor(1).submit(time.sleep, 3600)
atexit.register(print, "tidied")
print("said")
cli.app = lambda: sys.exit(130)
cli.main()
"""


def test_cancelled_command_does_not_wait_for_its_threads():
    ended = subprocess.run(
        [sys.executable, "-c", BUSY],
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (130, "said\ntidied\n")
