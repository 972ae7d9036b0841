"""`dgx-music generate`: the take, its copy, its output, and how it is stopped."""

import fcntl
import hashlib
import json
import os
import pty
import select
import shlex
import signal
import stat
import subprocess
import termios
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from pyebur128 import MeasurementMode, R128State, get_loudness_global, get_true_peak

from tests.conftest import LIMIT_SECONDS

pytestmark = pytest.mark.integration

TRAP = "trap beat with heavy 808 bass at 140 BPM"
HOUSE = "house at 120 BPM in A minor"
SHORT = ("--duration", "2")


def generate(home, *arguments: str) -> dict:
    result = home.call("generate", *arguments, "--json")
    assert result.returncode == 0, result.stderr
    job = json.loads(result.stdout)
    return job | {"path": home.path / job["file"]}


def independent_meter(path: Path) -> tuple[float, float]:
    """Integrated LUFS and dBTP by libebur128."""
    audio, rate = sf.read(path, dtype="float32", always_2d=True)
    state = R128State(2, rate, MeasurementMode.MODE_I | MeasurementMode.MODE_TRUE_PEAK)
    state.add_frames(audio.ravel(), len(audio))
    peak = max(get_true_peak(state, channel) for channel in (0, 1))
    return get_loudness_global(state), 20 * np.log10(peak)


def strongest_period_bpm(audio: np.ndarray, rate: int, near: float) -> float:
    """Tempo of the onset envelope, searched within 20 % of `near`, by its autocorrelation."""
    hop = 240
    mono = audio.mean(axis=1)
    frames = np.lib.stride_tricks.sliding_window_view(mono, 1024)[::hop]
    spectra = np.log1p(100 * np.abs(np.fft.rfft(frames * np.hanning(1024), axis=1)))
    onsets = np.maximum(0, np.diff(spectra, axis=0)).sum(axis=1)
    onsets -= onsets.mean()
    correlation = np.correlate(onsets, onsets, "full")[len(onsets) - 1 :]
    beats = 8
    tempi = np.arange(near * 0.8, near * 1.2, 0.05)
    lags = beats * 60 / tempi * rate / hop
    return float(tempi[np.argmax(np.interp(lags, np.arange(len(correlation)), correlation))])


def test_sentence_becomes_a_mastered_take_with_its_row(home):
    job = generate(home, TRAP, "--seed", "7")
    info = sf.info(job["path"])
    # The most bars that fit into 16 s, as a loop.
    frames = round(8 * 4 * 60 / 140 * 48_000)
    assert (info.samplerate, info.channels, info.frames) == (48_000, 2, frames)
    assert job["duration_seconds"] == frames / 48_000
    loudness, peak = independent_meter(job["path"])
    assert abs(loudness + 16.0) <= 0.1
    assert peak <= -1.0
    about = job["metadata"]
    assert about["bpm"] == 140.0
    assert about["genre"] == "trap"
    assert about["seed"] == 7
    assert about["engine"] == "composer"
    assert about["licence"]
    assert about["engine_version"]
    assert abs(about["integrated_lufs"] - loudness) <= 0.1
    assert home.rows("id, status, prompt, file_path") == [
        (job["job_id"], "completed", TRAP, str(job["path"].relative_to(home.path / "data/outputs")))
    ]
    assert job["path"].match(f"data/outputs/2*/*/*/{job['job_id']}.wav")
    assert home.files() == [job["path"]]


def test_stems_and_midi_are_kept_and_copied_beside_the_output(home):
    options = (*SHORT, "--seed", "5", "--stems", "--midi", "-o", "out/loop.flac")
    job = generate(home, HOUSE, *options)
    kept = json.loads(home.call("status", job["job_id"], "--json").stdout)
    assert {"drums", "bass"} <= set(job["stems"]) == set(kept["stems"])
    base = f"{job['job_id']}.stems"
    for name, path in job["stems"].items():
        assert path == f"out/loop.stems/{name}.wav"
        assert kept["stems"][name].endswith(f"/{base}/{name}.wav")
        assert (home.path / path).read_bytes() == Path(kept["stems"][name]).read_bytes()
    assert job["midi"] == "out/loop.mid"
    assert (home.path / job["midi"]).read_bytes() == Path(kept["midi"]).read_bytes()
    assert f"drums {kept['stems']['drums']}" in home.call("status", job["job_id"]).stdout
    for options in (("--stems", "-o", "out/loop.wav"), ("--midi", "-o", "out/loop.wav")):
        refused = home.call("generate", HOUSE, *SHORT, *options)
        assert refused.returncode == 7
        assert "exists. Add --force" in refused.stderr
    assert home.call("db", "cleanup", "--older-than", "0", "--yes").returncode == 0
    assert list((home.path / "data" / "outputs").rglob(f"{job['job_id']}*")) == []


def test_where_stems_are_is_said_after_generating(home):
    result = home.call("generate", HOUSE, *SHORT, "--stems", "--midi", "--seed", "5")
    folder = result.stdout.strip().removesuffix(".wav")
    assert f" stems in {folder}.stems: " in result.stderr
    assert f"MIDI in {folder}.mid" in result.stderr


def test_bars_and_loop_are_kept_or_explained(home):
    job = generate(home, HOUSE, "--bars", "1", "--no-loop", "--seed", "7")
    assert job["duration_seconds"] == 2.0
    assert (job["metadata"]["bars"], job["metadata"]["loop"]) == (1, False)
    for arguments, said in (
        (("--bars", "4", "-d", "5"), "4 bars at 120 BPM last 8.00 s, not 5 s."),
        (("--loop", "--no-loop"), "--loop and --no-loop contradict each other."),
    ):
        result = home.call("generate", HOUSE, *arguments)
        assert result.returncode == 2
        assert said in result.stderr


def test_audio_has_the_requested_tempo(home):
    job = generate(home, TRAP, "--seed", "11")
    audio, rate = sf.read(job["path"])
    assert abs(strongest_period_bpm(audio, rate, near=140) - 140) <= 0.5


def test_same_seed_makes_the_same_music_and_another_seed_does_not(home):
    jobs = [generate(home, HOUSE, *SHORT, "--seed", seed) for seed in ("5", "5", "6")]
    first, again, other = (sf.read(job["path"], dtype="int16")[0].tobytes() for job in jobs)
    assert first == again != other
    stored = {digest for (digest,) in home.rows("lower(hex(file_sha256))")}
    assert stored == {hashlib.sha256(job["path"].read_bytes()).hexdigest() for job in jobs}


def test_stdout_has_the_path_and_stderr_describes_the_take(home):
    result = home.call("generate", HOUSE, *SHORT, "--seed", "3")
    assert result.returncode == 0
    (path,) = result.stdout.splitlines()
    assert (home.path / path).is_file()
    for fact in ("120 BPM", "A minor", "seed 3", "LUFS", "dBTP", "CC0"):
        assert fact in result.stderr
    assert "\x1b" not in result.stderr + result.stdout
    assert home.call("generate", HOUSE, *SHORT, "--quiet").stderr == ""


def test_output_is_a_file_a_folder_or_stdout(home):
    job = generate(home, HOUSE, *SHORT, "-o", "new/loop.wav")
    assert job["file"] == "new/loop.wav"
    (home.path / "takes").mkdir()
    named = Path(generate(home, HOUSE, *SHORT, "-o", "takes")["file"]).name
    assert named.startswith("house-at-120-bpm-in-a-minor_120bpm_A-minor_")
    piped = home.path / "piped"
    started = home.start(
        "generate", HOUSE, *SHORT, "-o", "-", stdout=piped, stderr=home.path / "said"
    )
    assert started.wait() == 0
    assert piped.read_bytes()[:4] == b"RIFF"
    frames, rate = sf.read(piped)
    assert (len(frames), rate) == (96_000, 48_000)
    assert len([status for (status,) in home.rows() if status == "completed"]) == 3


def test_the_library_is_private_and_a_copy_follows_the_umask(home):
    os.umask(umask := os.umask(0o022))
    made = home.run("generate", HOUSE, *SHORT, "-o", "new/loop.wav")
    converted = home.run("convert", "new/loop.wav", "new/loop.flac")
    assert (made.returncode, converted.returncode) == (0, 0)

    def modes(*paths: Path) -> set[str]:
        return {f"{stat.S_IMODE(path.stat().st_mode):o}" for path in paths}

    library = home.path / "data"
    inside = list(library.rglob("*"))
    assert modes(library, *(path for path in inside if path.is_dir())) == {"700"}
    assert modes(*(path for path in inside if path.is_file())) == {"600"}
    assert modes(home.path / "new") == {f"{0o777 & ~umask:o}"}
    assert modes(*(home.path / "new").iterdir()) == {f"{0o666 & ~umask:o}"}


def test_musicgen_is_recommended_after_the_first_take_only(home):
    hint = "No MusicGen model is installed"
    assert hint in home.call("generate", HOUSE, *SHORT).stderr
    assert hint not in home.call("generate", HOUSE, *SHORT).stderr


def test_history_and_status_find_the_job(home):
    house, trap = generate(home, HOUSE, *SHORT), generate(home, TRAP, *SHORT)
    listed = [line.split("\t") for line in home.call("history").stdout.splitlines()]
    assert [line[0] for line in listed] == [trap["job_id"], house["job_id"]]
    found = json.loads(home.call("history", "--search", "808 Bass", "--json").stdout)
    assert [job["job_id"] for job in found["generations"]] == [trap["job_id"]]
    first = json.loads(home.call("history", "--limit", "1", "--json").stdout)
    second = home.call("history", "--limit", "1", "--json", "--cursor", first["next_cursor"])
    assert json.loads(second.stdout)["generations"][0]["job_id"] == house["job_id"]
    shown = home.call("status", house["job_id"][:8])
    assert shown.returncode == 0
    assert "120.0" in shown.stdout
    assert (
        json.loads(home.call("status", house["job_id"], "--json").stdout)["status"] == "completed"
    )
    assert home.call("history", "--status", "perfect").returncode == 2


def test_models_and_doctor_describe_the_machine(home):
    *others, composer = json.loads(home.call("models", "list", "--json").stdout)
    assert composer["name"] == "composer"
    assert composer["available"] is True
    assert {one["name"].partition("-")[0] for one in others} == {"musicgen"}
    findings = {
        finding["name"]: finding for finding in json.loads(home.call("doctor", "--json").stdout)
    }
    assert {"python", "settings", "sqlite", "database", "output", "gpu"} <= set(findings)
    assert not home.database.exists()
    home.database.parent.mkdir()
    home.database.write_bytes(b"no database" * 1000)
    broken = home.call("doctor")
    assert broken.returncode == 1
    assert "fail  database" in broken.stdout


def assert_database_is_one_file(home) -> None:
    """A copy of the file alone would lack what is still in the write-ahead log."""
    assert [path.name for path in home.database.parent.glob("generations*")] == ["generations.db"]


def interrupt(home, number: int, when: str) -> subprocess.CompletedProcess[bytes]:
    """Run a long take on a terminal and send the signal once `when` is on the screen."""
    leader, follower = pty.openpty()
    home.environment |= {"TERM": "xterm", "COLUMNS": "100"}
    stdout, terminal = home.path / "stdout", Path(os.ttyname(follower))
    arguments = ("generate", TRAP, "--duration", "600")
    process = home.start(*arguments, stdout=stdout, stderr=terminal)
    screen = b""
    while when.encode() not in screen:
        assert select.select([leader], [], [], LIMIT_SECONDS)[0], screen
        screen += os.read(leader, 4096)
    os.close(follower)
    process.send_signal(number)
    try:
        while block := os.read(leader, 4096):
            screen += block
    except OSError:  # the other end is closed: the process has ended
        pass
    os.close(leader)
    return subprocess.CompletedProcess(arguments, process.wait(), stdout.read_bytes(), screen)


def test_ctrl_c_leaves_no_file_and_a_cancelled_job(home):
    result = interrupt(home, signal.SIGINT, when="composing")
    assert result.returncode == 130, result.stderr
    assert result.stdout == b""
    assert b"Traceback" not in result.stderr
    assert_database_is_one_file(home)
    assert home.rows() == [("cancelled",)]
    assert home.files() == []


def test_sigterm_cancels_the_job(home):
    result = interrupt(home, signal.SIGTERM, when="composing")
    assert result.returncode == 130
    assert home.rows() == [("cancelled",)]
    assert home.files() == []


def start_composing(home, **options) -> tuple[subprocess.Popen[bytes], int]:
    """A long take that has begun, and the leading end of its terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        home.command("generate", TRAP, "--duration", "600"),
        cwd=home.path,
        env=home.full_environment() | {"TERM": "xterm"},
        stdin=follower,
        stdout=subprocess.DEVNULL,
        stderr=follower,
        **options,
    )
    os.close(follower)
    while b"composing" not in os.read(leader, 4096):
        pass
    return process, leader


def test_closed_terminal_cancels_the_job(home):
    # A terminal hangs up on the session it controls.
    process, leader = start_composing(
        home, start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    )
    os.close(leader)
    assert process.wait(timeout=LIMIT_SECONDS) == 130
    assert home.rows() == [("cancelled",)]
    assert home.files() == []


def test_next_command_fails_the_job_of_a_killed_process(home):
    process, leader = start_composing(home)
    process.kill()
    process.wait(timeout=LIMIT_SECONDS)
    os.close(leader)
    assert home.rows() == [("processing",)]
    (job,) = json.loads(home.call("history", "--json").stdout)["generations"]
    assert job["status"] == "failed"
    assert "killed" in job["error_message"]


@pytest.mark.parametrize("closed", ["2>&-", "<&- 2>&-"])
def test_closed_streams_do_not_fail_the_job(home, closed):
    command = shlex.join(home.command("generate", HOUSE, "--duration", "1"))
    ran = subprocess.run(
        ["sh", "-c", f"{command} {closed}"],
        cwd=home.path, env=home.full_environment(), capture_output=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0
    assert_database_is_one_file(home)
    assert home.rows() == [("completed",)]


def test_many_processes_on_a_new_database_all_succeed(home):
    logs = [home.path / f"log-{number}" for number in range(3)]
    arguments = ("generate", HOUSE, "--duration", "1", "--quiet")
    running = [home.start(*arguments, stdout=log, stderr=log) for log in logs]
    assert [process.wait() for process in running] == [0] * 3, [log.read_text() for log in logs]
    assert home.rows() == [("completed",)] * 3
    assert len(home.files()) == 3


def test_music_and_json_do_not_share_stdout(home):
    result = home.call("generate", HOUSE, "--json", "-o", "-")
    assert result.returncode == 2
    assert home.rows() == []


def test_help_has_examples_and_a_missing_prompt_is_refused(home):
    assert "Example:" in home.call("--help").stdout
    assert "Example:" in home.call("generate", "--help").stdout
    assert home.call("--version").stdout == "dgx-music 0.1.0\n"
    assert home.call("generate").returncode == 2
    assert home.call("history", "--limit", "0").returncode == 2
