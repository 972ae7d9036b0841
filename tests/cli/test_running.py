"""The progress bar, and the signals that stop a job."""

import io
import signal
import sys

import pytest

from services.cli.running import StopFlag, progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


class ClosedTerminal(Terminal):
    def write(self, _text):
        raise OSError(5, "Input/output error")


def test_first_signal_sets_the_flag_and_the_second_interrupts(capsys):
    stop = StopFlag()
    before = signal.getsignal(signal.SIGINT)
    with stop.catch_signals():
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "Ctrl-C again" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_of_the_system_stops_without_a_message(capsys, number):
    stop = StopFlag()
    with stop.catch_signals():
        signal.raise_signal(number)
    assert stop()
    assert capsys.readouterr().err == ""


def test_ignored_hangup_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = StopFlag()
        with stop.catch_signals():
            signal.raise_signal(signal.SIGHUP)
        assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_restored_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="bad"), StopFlag().catch_signals():
        raise ValueError("bad")
    assert signal.getsignal(signal.SIGTERM) is before


def test_bar_shows_the_stage_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar(shown=True) as show:
        show("composing", 0.5)
    assert "composing" in stream.getvalue()
    assert "50%" in stream.getvalue()


@pytest.mark.parametrize(("stream", "shown"), [(io.StringIO(), True), (Terminal(), False)])
def test_bar_is_hidden_in_a_pipe_and_when_quiet(monkeypatch, stream, shown):
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(shown=shown) as show:
        show("composing", 0.5)
    assert stream.getvalue() == ""


def test_without_the_bar_the_reason_why_a_job_waits_is_said_once(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    with progress_bar(shown=False) as show:
        for stage in ("queued", "waiting: A disk is full.", "waiting: A disk is full.", "saving"):
            show(stage, 0.5)
    assert stream.getvalue() == "The job is waiting: A disk is full.\n"


def test_closed_terminal_does_not_fail_the_job(monkeypatch):
    monkeypatch.setattr(sys, "stderr", ClosedTerminal())
    with progress_bar(shown=True) as show:
        show("composing", 0.5)
