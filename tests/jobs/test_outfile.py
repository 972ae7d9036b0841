"""The copy of a take that the user asked for."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audio import FORMATS, AudioExporter, TakeFacts, open_audio, read_facts, write_wav
from services.errors import InvalidRequestError, OutputError
from services.jobs.attachments import AttachedFile
from services.jobs.models import Job
from services.jobs.outfile import SUFFIXES, Destination, copy_whole, suggest_name


def job(prompt: str = "lo-fi beat", **metadata: object) -> Job:
    return Job(
        job_id="1a2b3c4d-0000-4000-8000-000000000000",
        status="completed",
        prompt=prompt,
        model="composer",
        duration_seconds=16.0,
        file=None,
        metadata=dict(metadata),
        generation_time_seconds=1.0,
        error_message=None,
        retry_count=0,
        created_at=datetime.now(UTC),
        completed_at=None,
    )


def test_a_suggested_name_has_words_tempo_key_and_id():
    name = suggest_name(job("Trap beat, 808!", bpm=140.0, key="C# minor"))
    assert name == "trap-beat-808_140bpm_C#-minor_1a2b3c4d.wav"


@given(st.text(min_size=1, max_size=500))
def test_a_suggested_name_is_a_safe_file_name_for_any_prompt(prompt):
    name = suggest_name(job(prompt, bpm=92.5, key="A minor"))
    assert Path(name).name == name
    assert not name.startswith((".", "-"))
    assert len(name) < 100
    assert name.isascii()


def test_a_copy_leaves_no_temporary_file(tmp_path):
    source = tmp_path / "source.wav"
    source.write_bytes(b"RIFF" * 1000)
    copy_whole(source, tmp_path / "new" / "copy.wav")
    assert (tmp_path / "new" / "copy.wav").read_bytes() == source.read_bytes()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["copy.wav"]


def test_a_copy_that_fails_keeps_the_old_file(tmp_path):
    target = tmp_path / "copy.wav"
    target.write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        copy_whole(tmp_path / "missing.wav", target)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["copy.wav"]


def test_the_error_of_a_failed_delivery_names_the_kept_take(tmp_path):
    target = tmp_path / "out.wav"
    destination = Destination.parse(str(target), force=False)
    target.mkdir()
    made = tmp_path / "made.wav"
    made.write_bytes(b"RIFF")
    with pytest.raises(OutputError, match=r"kept as .*made\.wav"):
        destination.deliver(job(), made, AudioExporter())


def attach(folder: Path, *names: str) -> list[tuple[AttachedFile, Path]]:
    files = []
    for name in names:
        path = folder / f"source-{name}"
        path.write_text(name)
        kind = "midi" if name == "score" else "stem"
        files.append(
            (AttachedFile(kind=kind, name=name, file="", file_path="", bytes=1, sha256=""), path)
        )
    return files


def test_stems_and_midi_are_copied_beside_the_file(tmp_path):
    destination = Destination.parse(str(tmp_path / "a.b.flac"), force=False, stems=True, midi=True)
    files = attach(tmp_path, "drums", "lead 2", "score")
    copies = destination.deliver_attached(job(), tmp_path / "a.b.flac", files)
    assert [path for _, path in copies] == [
        tmp_path / "a.b.stems" / "drums.wav",
        tmp_path / "a.b.stems" / "lead 2.wav",
        tmp_path / "a.b.mid",
    ]
    assert [path.read_text() for _, path in copies] == ["drums", "lead 2", "score"]


def test_stems_that_are_replaced_leave_none_of_the_earlier_set(tmp_path):
    destination = Destination.parse(str(tmp_path / "a.wav"), force=True, stems=True)
    destination.deliver_attached(job(), tmp_path / "a.wav", attach(tmp_path, "drums", "pad"))
    (tmp_path / "a.stems" / "notes.txt").touch()
    destination.deliver_attached(job(), tmp_path / "a.wav", attach(tmp_path, "drums"))
    assert {path.name for path in (tmp_path / "a.stems").iterdir()} == {"drums.wav", "notes.txt"}


def test_a_stem_that_appeared_meanwhile_is_not_replaced_without_force(tmp_path):
    destination = Destination.parse(str(tmp_path / "a.wav"), force=False, stems=True)
    (tmp_path / "a.stems").mkdir()
    (tmp_path / "a.stems" / "drums.wav").write_text("precious")
    with pytest.raises(OutputError, match="it exists"):
        destination.deliver_attached(job(), tmp_path / "a.wav", attach(tmp_path, "drums"))
    assert (tmp_path / "a.stems" / "drums.wav").read_text() == "precious"


def test_a_destination_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="not a folder"):
        Destination.parse(str(tmp_path / "file" / "a.wav"), force=False)


@pytest.mark.parametrize("name", ["a.aac", "a", "wav"])
def test_an_unknown_format_is_refused(tmp_path, name):
    with pytest.raises(InvalidRequestError, match=r"\.wav"):
        Destination.parse(str(tmp_path / name), force=True)


def test_a_file_that_appeared_meanwhile_is_not_replaced_without_force(tmp_path):
    destination = Destination.parse(str(tmp_path / "loop.wav"), force=False)
    (tmp_path / "loop.wav").write_text("precious")
    made = tmp_path / "made.wav"
    made.write_bytes(b"RIFF")
    with pytest.raises(OutputError, match=r"exists.*kept as"):
        destination.deliver(job(), made, AudioExporter())
    assert (tmp_path / "loop.wav").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loop.wav", "made.wav"]


def test_a_broken_link_is_not_replaced(tmp_path):
    (tmp_path / "loop.wav").symlink_to(tmp_path / "nowhere.wav")
    with pytest.raises(OutputError, match="exists"):
        Destination.parse(str(tmp_path / "loop.wav"), force=False)


def test_a_name_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(OutputError, match="too long"):
        Destination.parse(str(tmp_path / ("x" * 260 + ".wav")), force=False)


def test_a_name_of_the_greatest_length_can_be_written(tmp_path):
    made = tmp_path / "made.wav"
    made.write_bytes(b"RIFF")
    target = tmp_path / ("x" * 251 + ".wav")
    assert (
        Destination.parse(str(target), force=False).deliver(job(), made, AudioExporter()) == target
    )
    assert target.read_bytes() == b"RIFF"


@pytest.mark.parametrize("name", ["", "  "])
def test_an_output_without_a_name_is_refused(name):
    with pytest.raises(InvalidRequestError, match="needs a name"):
        Destination.parse(name, force=False)


def test_a_closed_stdout_is_refused(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(InvalidRequestError, match="Pipe it to"):
        Destination.parse("-", force=False)


def test_the_suffixes_are_those_of_the_formats():
    assert tuple(one.suffix for one in FORMATS.values()) == SUFFIXES


@pytest.mark.parametrize("suffix", [".flac", ".MP3", ".ogg", ".opus"])
def test_a_copy_in_another_format_keeps_the_metadata(tmp_path, suffix):
    made = tmp_path / "made.wav"
    audio = np.random.default_rng(0).uniform(-0.3, 0.3, (2, 24_000)).astype(np.float32)
    write_wav(made, audio, 48_000, facts=TakeFacts(prompt="hiss", seed=7, bpm=90.0))
    target = tmp_path / f"loop{suffix}"
    Destination.parse(str(target), force=False).deliver(job(), made, AudioExporter())
    assert open_audio(target).read().shape == audio.shape
    facts = read_facts(target)
    assert (facts.prompt, facts.seed, facts.bpm) == ("hiss", 7, 90.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [target.name, "made.wav"]


def test_standard_output_gets_the_bytes_of_the_take(tmp_path, capsysbinary):
    take = tmp_path / "take.wav"
    take.write_bytes(b"RIFF\x00\xff")
    destination = Destination.parse("-", force=False)
    assert destination.deliver(job(), take, AudioExporter()) == take
    assert capsysbinary.readouterr().out == b"RIFF\x00\xff"


def test_a_full_standard_output_is_an_error_that_names_the_kept_take(tmp_path, monkeypatch):
    take = tmp_path / "take.wav"
    take.write_bytes(b"RIFF")
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(OutputError, match=r"stdout cannot be written.*kept as .*take\.wav"):
            Destination.parse("-", force=False).deliver(job(), take, AudioExporter())
        full.buffer.raw.close()


def test_a_take_in_a_folder_gets_the_suggested_name(tmp_path):
    take = tmp_path / "take.wav"
    take.write_bytes(b"RIFF")
    destination = Destination.parse(f"{tmp_path}/new/", force=False)
    target = destination.deliver(job("Dub techno"), take, AudioExporter())
    assert target == tmp_path / "new" / "dub-techno_1a2b3c4d.wav"
    assert target.read_bytes() == b"RIFF"
