"""Audio files are decoded in a process that a hostile file can hang or crash alone."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from services.audio import UnreadableAudioError, decoding, open_audio
from services.audio.decoding import DecodingError, decode
from tests.conftest import LIMIT_SECONDS, wait_until

HEADER = bytes.fromhex(
    "52494646 00000000 57415645 666d7420 10000000 0100 0200 44ac0000 10b10200 0400 1000"
)
SPINNING = {
    # A chunk within LIST whose length makes libsndfile go back for ever.
    "info": HEADER + b"LIST" + b"\x14\0\0\0INFOerel" + b"\xf8\xff\xff\xffemak\x07\0\0\0",
    "adtl": HEADER
    + b"LIST"
    + b"\x1d\0\0\0adtlerel"
    + b"\xf8\xff\xff\xff=adtl\x08\0\0\0"
    + bytes.fromhex("008e0122 8c403fc4 ce"),
}


def write_tone(path: Path, seconds: float = 1.0, **options: object) -> np.ndarray:
    times = np.arange(round(48_000 * seconds)) / 48_000
    tone = np.stack([0.5 * np.sin(2 * np.pi * 220 * times), 0.25 * np.cos(times)], axis=1)
    sf.write(path, tone, 48_000, **options)
    return tone


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    write_tone(tmp_path / "tone.wav")
    return tmp_path / "tone.wav"


def children(process: int) -> list[int]:
    """The processes that a process has started, without those that have ended."""
    found = Path(f"/proc/{process}/task").glob("*/children")
    started = [int(child) for path in found for child in path.read_text(encoding="ascii").split()]
    return [child for child in started if state_of(child) not in {"", "Z"}]


def state_of(process: int) -> str:
    """The letter of a process's state, or nothing when it is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
        return status.rpartition(")")[2].split()[0]
    return ""


def forks() -> list[int]:
    """The processes that decode for this one."""
    server = decoding._decoder._process
    assert server is not None
    return children(server.pid)


@pytest.mark.parametrize("options", [{}, {"subtype": "FLOAT"}, {"format": "FLAC"}])
def test_samples_are_those_of_the_library(tmp_path, options):
    path = tmp_path / "tone"
    write_tone(path, **{"format": "WAV", **options})
    expected, rate = sf.read(path, dtype="float32", always_2d=True)
    found = open_audio(path)
    assert (found.sample_rate, found.frames, found.channels) == (rate, len(expected), 2)
    assert np.array_equal(found.read(), expected.T)
    blocks = [block.shape[1] for block in found.blocks(1000)]
    assert blocks == [1000] * 48


@pytest.mark.parametrize("name", SPINNING)
def test_a_file_that_hangs_its_decoder_is_damaged(tmp_path, monkeypatch, name):
    monkeypatch.setattr(decoding, "CPU_SECONDS", 0.2)
    path = tmp_path / "spin.wav"
    path.write_bytes(SPINNING[name])
    with pytest.raises(UnreadableAudioError, match=r"spin\.wav is damaged: .* keeps it busy"):
        open_audio(path)
    wait_until(lambda: forks() == [])


def test_other_files_are_read_while_one_hangs(tmp_path, monkeypatch, tone):
    monkeypatch.setattr(decoding, "CPU_SECONDS", 1.0)
    path = tmp_path / "spin.wav"
    path.write_bytes(SPINNING["info"])
    with ThreadPoolExecutor(1) as threads:
        stuck = threads.submit(open_audio, path)
        wait_until(lambda: decoding._decoder._process is not None and forks())
        assert open_audio(tone).read().shape == (2, 48_000)
        assert not stuck.done()
        with pytest.raises(UnreadableAudioError):
            stuck.result(LIMIT_SECONDS)


def test_a_reader_that_stops_ends_the_process(tmp_path):
    write_tone(tmp_path / "long.wav", 30.0)
    blocks = open_audio(tmp_path / "long.wav").blocks(100)
    next(blocks)
    # The one that read the header is killed, and may take a moment.
    wait_until(lambda: len(forks()) == 1)
    blocks.close()
    wait_until(lambda: forks() == [])


def test_a_decoder_that_was_killed_is_started_again(tone):
    assert open_audio(tone).read().any()
    before = decoding._decoder._process
    assert before is not None
    before.kill()
    before.wait()
    assert open_audio(tone).read().any()
    assert decoding._decoder._process is not before


def test_a_process_that_is_killed_amid_a_file_leaves_it_damaged(tmp_path):
    write_tone(tmp_path / "long.wav", 30.0)
    blocks = open_audio(tmp_path / "long.wav").blocks(1000)
    next(blocks)
    wait_until(lambda: len(forks()) == 1)
    (process,) = forks()
    os.kill(process, signal.SIGKILL)
    with pytest.raises(UnreadableAudioError, match="crashes its decoder"):
        list(blocks)


def test_a_file_that_nothing_comes_of_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "WAIT_SECONDS", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with (
        pytest.raises(DecodingError, match=r"nothing came of it for 0\.1 s"),
        decode(tmp_path / "pipe", 100),
    ):
        pass


def test_what_lies_in_the_current_folder_is_not_imported(tmp_path, tone):
    for name in ("numpy", "soundfile", "services"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    ran = subprocess.run(
        [Path(sys.executable).parent / "dgx-music", "analyze", "--json", tone.name],
        cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")


def test_an_answer_that_nobody_waited_for_is_no_other_reader_s(tone):
    assert open_audio(tone).frames == 48_000
    channel = decoding._decoder._channel

    class Interrupted:
        """A channel whose reader is interrupted before it has the answer."""

        def __getattr__(self, name):
            return getattr(channel, name)

        def recv(self, _size):
            raise KeyboardInterrupt

    decoding._decoder._channel = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        open_audio(tone)
    assert open_audio(tone).read().shape == (2, 48_000)
    assert decoding._decoder._channel is not channel


def test_a_machine_that_starts_no_process_is_not_a_damaged_file(tone, monkeypatch):
    def fail(*_arguments: object, **_options: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    decoding._decoder.end()
    monkeypatch.setattr(subprocess, "Popen", fail)
    with pytest.raises(BlockingIOError):
        open_audio(tone)
    monkeypatch.undo()
    assert open_audio(tone).frames == 48_000


def test_names_that_are_no_text_are_read(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xff.wav"))
    write_tone(tmp_path / "tone.wav")
    (tmp_path / "tone.wav").rename(path)
    assert open_audio(path).frames == 48_000


def test_threads_read_at_once(tmp_path):
    expected = {}
    for number in range(8):
        path = tmp_path / f"{number}.wav"
        times = np.arange(4800 + number) / 48_000
        sf.write(path, 0.1 * (number + 1) * np.sin(times), 48_000, subtype="FLOAT")
        expected[path] = sf.read(path, dtype="float32")[0]

    def read(path: Path) -> bool:
        return all(np.array_equal(open_audio(path).read()[0], expected[path]) for _ in range(10))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, expected))


def read_in_fork(path: str) -> int:
    return open_audio(path).frames


def test_a_fork_has_a_decoder_of_its_own(tone):
    assert open_audio(tone).frames == 48_000
    here = decoding._decoder._process
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(read_in_fork, [str(tone)] * 8) == [48_000] * 8
    assert decoding._decoder._process is here
    assert here is not None
    assert here.poll() is None
    assert open_audio(tone).frames == 48_000


def test_readings_leave_no_descriptors_and_no_processes(tone, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    open_audio(tone)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        open_audio(tone).read()
        next(open_audio(tone).blocks(10))
        with pytest.raises(UnreadableAudioError):
            open_audio(tmp_path / "bad.wav")
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    wait_until(lambda: forks() == [])


def test_the_decoder_ends_with_its_program(tone):
    code = (
        "import sys, os, signal\n"
        "from services.audio import open_audio, decoding\n"
        "open_audio(sys.argv[1])\n"
        "print(decoding._decoder._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tone)],
        stdout=subprocess.PIPE, text=True, timeout=LIMIT_SECONDS, check=False,
    )  # fmt: skip
    wait_until(lambda: state_of(int(ran.stdout)) in {"", "Z"})


def test_ctrl_c_ends_a_reading_at_once(tmp_path):
    path = tmp_path / "spin.wav"
    path.write_bytes(SPINNING["info"])
    program = Path(sys.executable).parent / "dgx-music"
    process = subprocess.Popen(
        [program, "analyze", str(path)], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )

    wait_until(lambda: any(children(server) for server in children(process.pid)))
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert time.monotonic() - began < decoding.CPU_SECONDS


FORMATS = ("WAV", "FLAC", "OGG", "MP3", "AIFF", "CAF", "AU", "W64", "RF64")


def mutate(data: bytes, draw: st.DataObject) -> bytes:
    """Damage a file: overwrite, remove, repeat and add bytes, mostly in its header."""
    changed = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 6))):
        place = draw.draw(st.integers(0, min(len(changed), 400) - 1))
        kind = draw.draw(st.sampled_from(["set", "number", "cut", "repeat", "end"]))
        if kind == "set":
            changed[place] = draw.draw(st.integers(0, 255))
        elif kind == "number":
            number = draw.draw(st.sampled_from([0, 1, 7, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF8]))
            order = draw.draw(st.sampled_from(["little", "big"]))
            changed[place : place + 4] = number.to_bytes(4, order)
        elif kind == "cut":
            del changed[place : place + draw.draw(st.integers(1, 40))]
        elif kind == "repeat":
            changed[place:place] = changed[place : place + draw.draw(st.integers(1, 60))]
        else:
            del changed[draw.draw(st.integers(1, len(changed))) :]
        if not changed:
            break
    return bytes(changed)


@pytest.fixture(scope="session")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("good")
    made = {}
    for name in FORMATS:
        write_tone(folder / name, 0.1, format=name)
        made[name] = (folder / name).read_bytes()
    return made


@given(data=st.data())
def test_any_damaged_file_is_read_or_refused(good_files, tmp_path_factory, data):
    check_damaged_file(good_files, tmp_path_factory.getbasetemp() / "damaged", data)


def check_damaged_file(good_files: dict[str, bytes], path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(FORMATS))
    path.write_bytes(mutate(good_files[name], data))
    limit, decoding.CPU_SECONDS = decoding.CPU_SECONDS, 0.5
    try:
        with suppress(UnreadableAudioError):
            assert sum(block.shape[1] for block in open_audio(path).blocks()) > 0
    finally:
        decoding.CPU_SECONDS = limit


@pytest.mark.nightly
@settings(max_examples=20_000)
@given(data=st.data())
def test_many_damaged_files_are_read_or_refused(good_files, tmp_path_factory, data):
    check_damaged_file(good_files, tmp_path_factory.getbasetemp() / "damaged", data)
