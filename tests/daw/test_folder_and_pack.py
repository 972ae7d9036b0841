"""Folders and packs for DAWs without a format of their own."""

import hashlib
import json
from dataclasses import replace

import soundfile as sf

from services.audio.facts import TakeFacts
from services.daw.building import build_session
from services.daw.folder import write_chord_chart, write_folder
from services.daw.pack import write_pack
from services.generation.score import Chord, Section
from tests.daw.takes import make_score, make_take


def files(folder):
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def test_the_folder_of_one_take(tmp_path):
    folder = write_folder(build_session("s", [make_take(tmp_path / "in", "beat")]), tmp_path)
    assert files(folder) == [
        "README.txt", "beat chords.txt", "beat.mid", "beat.wav",
        "stems/bass.wav", "stems/drums.wav",
    ]  # fmt: skip
    assert "97.3" not in (folder / "README.txt").read_text()
    assert "124 BPM, 4/4, 1 bars, key F# minor" in (folder / "README.txt").read_text()


def test_several_takes_have_a_folder_each(tmp_path):
    takes = [make_take(tmp_path / "in", name, stems=()) for name in ("a", "A", "README.txt")]
    folder = write_folder(build_session("s", takes), tmp_path)
    names = {name.split("/")[0] for name in files(folder)}
    assert names == {"a", "A 2", "README.txt 2", "README.txt"}


def test_the_chord_chart_has_each_bar_under_its_section(tmp_path):
    score = make_score(bars=6, sections=(Section("drop", 1, 5, 0.9),))
    score = replace(score, chords=(*score.chords, Chord(12.0, 12.0, 9, (9, 1, 4), "A")))
    session = build_session("s", [make_take(tmp_path, "beat", bars=6, score=score)])
    assert write_chord_chart(session.takes[0]).splitlines() == [
        "beat: F# minor, 124 BPM, 4/4",
        "",
        "intro (bar 1)",
        "| F#m D |",
        "",
        "drop (bar 2)",
        "| % | % | A | % |",
        "| % |",
    ]


def test_files_of_a_pack_are_named_by_tempo_key_and_words(tmp_path):
    loop = TakeFacts(is_loop=True, bars=1, key="F# minor")
    takes = [
        make_take(tmp_path / "in", "Dark trap!", facts=loop),
        make_take(tmp_path / "in", "Dark trap?", bpm=97.3),
    ]
    folder = write_pack(build_session("s", takes), tmp_path)
    assert files(folder) == [
        "loops/124_Fsharpmin_dark-trap.wav",
        "manifest.json",
        "midi/124_Fsharpmin_dark-trap.mid",
        "midi/97.3_Fsharpmin_dark-trap.mid",
        "stems/124_Fsharpmin_dark-trap_bass.wav",
        "stems/124_Fsharpmin_dark-trap_drums.wav",
        "stems/97.3_Fsharpmin_dark-trap_bass.wav",
        "stems/97.3_Fsharpmin_dark-trap_drums.wav",
        "takes/97.3_Fsharpmin_dark-trap.wav",
    ]


def test_takes_of_one_name_have_different_files(tmp_path):
    takes = [make_take(tmp_path / "in", name, stems=()) for name in ("x", "x", "x 2")]
    folder = write_pack(build_session("s", takes), tmp_path)
    assert len([name for name in files(folder) if name.startswith("takes/")]) == 3


def test_stems_of_the_same_words_have_different_files(tmp_path):
    take = make_take(tmp_path / "in", "x", stems=("Lead!", "lead?", "Lead 2"))
    folder = write_pack(build_session("s", [take]), tmp_path)
    assert [name for name in files(folder) if name.startswith("stems/")] == [
        "stems/124_Fsharpmin_x_lead-2-2.wav",
        "stems/124_Fsharpmin_x_lead-2.wav",
        "stems/124_Fsharpmin_x_lead.wav",
    ]


def test_the_manifest_describes_each_file(tmp_path):
    session = build_session("s", [make_take(tmp_path / "in", "beat", metre=(7, 8))])
    folder = write_pack(session, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    listed = [entry["path"] for entry in manifest["files"]]
    assert sorted([*listed, "manifest.json"]) == files(folder)
    for entry in manifest["files"]:
        data = (folder / entry["path"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry["bytes"] == len(data)
    first = manifest["files"][0]
    assert (first["kind"], first["bpm"], first["metre"]) == ("take", 124.0, "7/8")
    assert (first["key"], first["licence"], first["facts"]["seed"]) == ("F# minor", "CC0-1.0", 7)


def test_all_audio_of_a_pack_is_read_by_libsndfile(tmp_path):
    folder = write_pack(build_session("s", [make_take(tmp_path / "in")]), tmp_path)
    lengths = {sf.info(path).frames for path in folder.rglob("*.wav")}
    assert lengths == {round(4 * 60 / 124 * 48000)}
