import subprocess
import sys

import pytest

import services.audio


def modules_after(statement):
    """The top-level packages that a new interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_public_names_are_sorted_and_exist():
    names = services.audio.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert all(hasattr(services.audio, name) for name in names)
    assert set(dir(services.audio)) == set(names)


def test_names_of_the_contract_are_public():
    assert {"AudioExporter", "AudioFileManager"} <= set(services.audio.__all__)


def test_unknown_name_raises_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = services.audio.nothing


def test_handling_files_does_not_import_numpy():
    assert "numpy" not in modules_after("from services.audio import AudioFileManager")


def test_mastering_and_writing_need_no_slow_import():
    loaded = modules_after("from services.audio import AudioExporter, master, write_wav")
    assert "numpy" in loaded
    assert not loaded & {"scipy", "numba", "soundfile", "torch", "matplotlib"}


def test_audio_imports_nothing_else_of_the_project():
    code = (
        "import sys; from services.audio import *; "
        "print(*{n for n in sys.modules if n.startswith('services.')})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name.split(".")[1] for name in done.stdout.split()} == {"audio"}
