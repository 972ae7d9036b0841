"""Whether a process has ended, from its identity."""

import os
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.machine import process_identity
from services.machine.process_identity import ProcessIdentity, has_ended

PRINT_IDENTITY = (
    "from services.machine.process_identity import ProcessIdentity\n"
    "print(ProcessIdentity.current(), flush=True)\n"
    "input()"
)


def with_parts(**changed: str) -> str:
    names = ("host", "boot", "namespace", "pid", "start")
    parts = dict(zip(names, str(ProcessIdentity.current()).split("/"), strict=True))
    return "/".join((parts | changed).values())


def test_a_running_process_has_not_ended():
    identity = ProcessIdentity.current()
    assert identity.pid == os.getpid()
    assert not identity.has_ended()
    assert not has_ended(str(identity))


def test_an_identity_is_parsed_from_its_text():
    identity = ProcessIdentity.current()
    assert ProcessIdentity.parse(str(identity)) == identity


def test_an_identity_that_an_earlier_release_wrote_is_read():
    identity = ProcessIdentity.current()
    assert ProcessIdentity.parse(f"{identity}/0123456789abcdef") == identity


def test_a_killed_process_has_ended():
    with subprocess.Popen(
        [sys.executable, "-c", PRINT_IDENTITY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        identity = process.stdout.readline().strip()
        assert not has_ended(identity)
        process.kill()
    assert has_ended(identity)


def test_a_reused_process_id_is_another_process():
    started = int(str(ProcessIdentity.current()).split("/")[4])
    assert has_ended(with_parts(start=str(started + 1)))


def test_processes_from_before_the_last_boot_have_ended(monkeypatch):
    identity = str(ProcessIdentity.current())
    monkeypatch.setattr(process_identity, "boot_id", lambda: "another boot")
    assert has_ended(identity)


@pytest.mark.parametrize("elsewhere", ["host", "namespace"])
def test_a_process_of_another_host_or_container_may_still_run(monkeypatch, elsewhere):
    identity = with_parts(pid="999999999", start="1")
    assert has_ended(identity)
    if elsewhere == "host":
        monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    else:
        monkeypatch.setattr(process_identity, "_pid_namespace", lambda: "another container")
    assert not has_ended(identity)


@pytest.mark.parametrize("boot", [""])
def test_without_a_boot_id_nothing_is_certain(boot):
    assert not has_ended(with_parts(boot=boot, pid="999999999", start="1"))


@given(st.none() | st.text(max_size=80))
def test_any_other_text_is_no_ended_process(text):
    assert not has_ended(text)


def test_only_a_stopped_process_is_killed():
    assert not ProcessIdentity.current().kill_if_stopped()


@pytest.mark.parametrize("part", ["host", "boot", "namespace"])
def test_a_process_elsewhere_is_never_killed(monkeypatch, part):
    monkeypatch.setattr(os, "kill", lambda *_arguments: pytest.fail("killed"))
    monkeypatch.setattr(process_identity, "_STOPPED_STATE", "R")
    identity = ProcessIdentity.parse(with_parts(**{part: "elsewhere"}))
    assert not identity.kill_if_stopped()


def test_a_process_that_ends_before_it_is_killed_is_not_counted(monkeypatch):
    def kill(*_arguments):
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(process_identity, "_stat_fields", lambda _pid: ["T", *["7"] * 40])
    assert not ProcessIdentity.parse(with_parts(start="7")).kill_if_stopped()


def test_without_proc_no_identity_is_certain(monkeypatch, tmp_path):
    monkeypatch.setattr(process_identity, "_PROC", tmp_path)
    identity = ProcessIdentity.current()
    assert (identity.boot, identity.pid_namespace, identity.start_time) == ("", "", "")
    assert not identity.has_ended()
