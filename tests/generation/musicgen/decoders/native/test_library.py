"""The Python side of the C functions: it must mirror the structures of the C files."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from services.generation.musicgen.decoders.native import build as building
from services.generation.musicgen.decoders.native import library as library_module
from services.generation.musicgen.decoders.native.build import BuildError
from services.generation.musicgen.decoders.native.cores import physical_cores
from services.generation.musicgen.decoders.native.library import (
    Draw,
    Format,
    MatrixName,
    NativeUnavailableError,
    Shape,
    VectorName,
    open_library,
)
from services.generation.musicgen.decoders.native.sampler import NativeSampler
from services.generation.musicgen.loop.request import Sampling

SOURCE = "\n".join(file.read_text() for file in sorted(building.SOURCES.glob("*.[ch]")))
C_TYPES = {
    "int32_t": ctypes.c_int32,
    "uint64_t": ctypes.c_uint64,
    "double": ctypes.c_double,
    "float": ctypes.c_float,
}


def fields_in_c(name: str) -> list[tuple[str, Any]]:
    (body,) = re.findall(rf"typedef struct \{{([^}}]*)\}} {name};", SOURCE)
    return [
        (field.strip(), C_TYPES[kind])
        for kind, fields in re.findall(r"(\w+) ([^;]+);", body)
        for field in fields.split(",")
    ]


@pytest.mark.parametrize("structure", [Shape, Draw])
def test_structures_have_the_fields_of_c_in_their_order(structure: Any) -> None:
    assert list(structure._fields_) == fields_in_c(structure.__name__)


@pytest.mark.parametrize(
    ("names", "enum"),
    [(Format, "format"), (MatrixName, "matrix_name"), (VectorName, "vector_name")],
)
def test_enumerations_have_the_values_of_c(names: Any, enum: str) -> None:
    (body,) = re.findall(rf"enum {enum} \{{([^}}]*)\}};", SOURCE)
    assert [name.strip() for name in body.split(",")] == [each.name for each in names]
    assert [each.value for each in names] == list(range(len(names)))


def test_every_function_of_the_signatures_is_exported() -> None:
    exported = set(re.findall(r"EXPORT [^(;]*?(musicgen_\w+)\(", SOURCE))
    assert exported == library_module._SIGNATURES.keys()


@pytest.fixture
def fake_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A library with the levels plain, fast and other, of which `fast` does not run."""
    names = [b"plain", b"fast", b"other"]
    fake = SimpleNamespace(
        musicgen_level=lambda number: names[number] if number < 3 else None,
        musicgen_runs=lambda number: number != 1,
        musicgen_draw=lambda *_: -2,
    )
    monkeypatch.setattr(library_module, "open_library", lambda _folders: fake)
    library_module.library.cache_clear()
    yield fake
    library_module.library.cache_clear()


@pytest.mark.usefixtures("fake_library")
def test_levels_keep_their_numbers_and_leave_out_what_does_not_run() -> None:
    assert library_module.levels() == {"plain": 0, "other": 2}


def test_the_library_is_opened_once_for_all_folders(fake_library: SimpleNamespace) -> None:
    assert library_module.library() is library_module.library() is fake_library


def test_sampling_without_memory_is_an_error(
    fake_library: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "services.generation.musicgen.decoders.native.sampler.library", lambda: fake_library
    )
    with pytest.raises(MemoryError, match="sampling"):
        NativeSampler()(torch.zeros(2, 1, 4, 8), [Sampling()], [0])


def test_a_failed_build_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(_folders: object) -> Path:
        raise BuildError("gcc failed: error: no space")

    monkeypatch.setattr(library_module, "build", fail)
    with pytest.raises(NativeUnavailableError) as caught:
        open_library([tmp_path])
    message = "The native step could not be built: gcc failed: error: no space."
    assert str(caught.value) == message


def test_a_compiler_that_takes_too_long_is_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(command: list[str], **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, building.TIME_LIMIT_SECONDS)

    monkeypatch.setattr(building.subprocess, "run", run)
    with pytest.raises(BuildError, match="took more than 300 s"):
        building.build([tmp_path])
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_nothing_is_built() -> None:
    with pytest.raises(BuildError, match="there is no folder for it"):
        building.build([])


@pytest.mark.parametrize("cache", ["/caches", ""])
def test_folders_are_the_environment_and_the_cache_of_the_user(
    monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    monkeypatch.setenv("HOME", "/home/user")
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    user = Path(cache or "/home/user/.cache") / "dgx-music"
    monkeypatch.setattr(building.sys, "prefix", "/environment")
    assert building.library_folders() == [Path("/environment/var/cache/dgx-music"), user]
    monkeypatch.setattr(building.sys, "prefix", building.sys.base_prefix)
    assert building.library_folders() == [user]


def test_main_builds_only_without_a_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built: list[object] = []
    monkeypatch.setattr(building, "library_folders", lambda: [tmp_path])
    monkeypatch.setattr(building, "build", built.append)
    monkeypatch.setattr(building, "find_library", lambda _folders: tmp_path / "step.so")
    building.main()
    assert built == []
    monkeypatch.setattr(building, "find_library", lambda _folders: None)
    building.main()
    assert built == [[tmp_path]]


def test_main_exits_with_one_line_if_the_build_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "library_folders", list)
    with pytest.raises(SystemExit) as left:
        building.main()
    message = "MusicGen's native step could not be built: there is no folder for it."
    assert left.value.code == message


def test_siblings_are_read_from_the_older_file_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: {0, 1, 2})
    for cpu in (0, 1):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text("0-1\n")
    assert physical_cores(tmp_path, tmp_path / "no quota") == 2


@pytest.mark.parametrize("quota", ["", "1", "100000 0", "max", "1 2 3"])
def test_a_quota_that_cannot_be_read_limits_nothing(tmp_path: Path, quota: str) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(quota)
    assert physical_cores(tmp_path, file) == physical_cores(tmp_path, tmp_path / "none")
