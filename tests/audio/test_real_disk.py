"""Export to a real disk, with size limits, signals and several processes."""

import json
import resource
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pyebur128
import pytest
import soundfile

from services.audio import AudioExporter, AudioFileManager, master, measure_loudness, write_wav

pytestmark = pytest.mark.integration

RATE = 48_000


def take(seconds=8.0, rate=RATE):
    """Bass, chords and a loud snare, which needs limiting at -16 LUFS."""
    rng = np.random.default_rng(16)
    time = np.arange(round(seconds * rate)) / rate
    chords = sum(np.sin(2 * np.pi * f * time + f) for f in (220, 277.2, 329.6)) * 0.02
    bass = 0.1 * np.sin(2 * np.pi * 55 * time)
    snare = rng.standard_normal((2, time.size)) * np.exp(-30 * (time % 0.5)) * 0.15
    return (chords + bass + snare).astype(np.float32)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def run(script, *arguments, **options):
    code = textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("rate", [32_000, 44_100, 48_000])
@pytest.mark.parametrize("bit_depth", AudioExporter.SUPPORTED_BIT_DEPTHS)
def test_written_file_has_its_levels_by_two_meters(tmp_path, rate, bit_depth):
    mastered = master(take(rate=rate), rate)
    assert 0 < mastered.gain_reduction_db < 6
    written = write_wav(tmp_path / "take.wav", mastered.audio, rate, bit_depth)
    frames, found_rate = soundfile.read(written.path, dtype="float64", always_2d=True)
    assert found_rate == rate
    own = measure_loudness(frames.T, rate)
    mode = pyebur128.MeasurementMode.MODE_I | pyebur128.MeasurementMode.MODE_TRUE_PEAK
    state = pyebur128.R128State(2, rate, mode)
    state.add_frames(frames.ravel(), len(frames))
    for loudness in (own.integrated_lufs, pyebur128.get_loudness_global(state)):
        assert loudness == pytest.approx(-16.0, abs=0.1)
    assert own.true_peak_dbtp <= -1.0
    assert max(pyebur128.get_true_peak(state, channel) for channel in (0, 1)) <= 10 ** (-1 / 20)


def test_exported_file_is_listed_in_the_folder_of_its_day(tmp_path):
    manager = AudioFileManager(tmp_path)
    path, size = AudioExporter().export_wav(take(1.0), manager.get_output_path("job"), RATE)
    assert manager.list_files() == [path]
    assert manager.get_file_size(path) == size == manager.get_storage_stats()["total_size_bytes"]


def test_file_size_limit_leaves_only_the_old_file(tmp_path):
    path = tmp_path / "take.wav"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(RuntimeError, match=r"Could not write WAV file .*file-size limit"):
            write_wav(path, take(), RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["take.wav"]


WRITE_FOREVER = """
    import signal, sys, numpy as np
    from services.audio import write_wav
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored below a background shell
    quiet, loud = (np.full((2, 500_000), level, np.float32) for level in (0.1, 0.9))
    while True:
        for audio in (quiet, loud):
            digest = write_wav(sys.argv[1], audio, 48000, dither=False).sha256
            print(digest, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_writer_leaves_a_complete_file(tmp_path, number):
    path = tmp_path / "take.wav"
    writer = run(WRITE_FOREVER, path)
    for _ in range(7):
        assert writer.stdout.readline()
    writer.send_signal(number)
    writer.communicate()
    frames, _ = soundfile.read(path, dtype="int16", always_2d=True)
    assert frames.shape == (500_000, 2)
    assert np.unique(frames).size == 1
    if number == signal.SIGINT:
        assert names_in(tmp_path) == ["take.wav"]


def test_two_processes_write_the_same_bytes(tmp_path):
    script = """
        import json, sys, numpy as np
        from services.audio import master, write_wav
        audio = np.random.default_rng(1).standard_normal((2, 96_000)) * 0.2
        mastered = master(audio, 48000)
        written = write_wav(sys.argv[1], mastered.audio, 48000)
        print(json.dumps([written.sha256, mastered.to_dict()]))
    """
    runs = [run(script, tmp_path / f"{i}.wav") for i in range(2)]
    outputs = [json.loads(one.communicate()[0]) for one in runs]
    assert outputs[0] == outputs[1]
