"""Whether the process behind an attempt is still there."""

import os
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.machine import process_identity as owner
from services.machine.process_identity import is_abandoned, new_token

NEW_TOKEN = (
    "from services.machine.process_identity import new_token; print(new_token(), flush=True)"
)


def test_a_token_of_a_living_process_is_not_abandoned_and_none_is_given_twice():
    tokens = {new_token() for _ in range(10)}
    assert len(tokens) == 10
    assert not any(is_abandoned(token) for token in tokens)


def test_a_token_of_a_process_that_ended_is_abandoned():
    with subprocess.Popen(
        [sys.executable, "-c", NEW_TOKEN + "; input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        token = process.stdout.readline().strip()
        assert not is_abandoned(token)
        process.kill()
    assert is_abandoned(token)


def test_a_process_id_that_was_given_out_again_is_another_process():
    parts = new_token().split("/")
    parts[4] = str(int(parts[4]) + 1)
    assert parts[3] == str(os.getpid())
    assert is_abandoned("/".join(parts))


def test_after_a_restart_of_the_machine_its_tokens_are_abandoned(monkeypatch):
    token = new_token()
    monkeypatch.setattr(owner, "boot_id", lambda: "another boot")
    assert is_abandoned(token)


@pytest.mark.parametrize("change", ["host", "namespace"])
def test_what_runs_elsewhere_is_left_alone(monkeypatch, change):
    parts = new_token().split("/")
    parts[3], parts[4] = "999999999", "1"
    token = "/".join(parts)
    assert is_abandoned(token)
    if change == "host":
        monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    else:
        monkeypatch.setattr(owner, "_namespace", lambda: "another container")
    assert not is_abandoned(token)


@given(st.none() | st.text(max_size=80))
def test_what_is_no_token_of_ours_is_left_alone(text):
    assert not is_abandoned(text)
