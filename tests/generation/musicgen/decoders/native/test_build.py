"""The library of the native step: building and finding it, and working without it."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.generation.musicgen.decoders.native import build as building
from services.generation.musicgen.decoders.native.build import (
    BuildError,
    build,
    find_library,
    is_available,
    library_name,
)
from services.generation.musicgen.decoders.native.cores import physical_cores
from services.generation.musicgen.decoders.native.library import (
    NativeUnavailableError,
    open_library,
)

CHECK = Path(__file__).with_name("native_check.c")
NO_COMPILER = {"CC": "no-such-compiler"}
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CC", "cc")) is None, reason="there is no C compiler"
)


@pytest.fixture(scope="module", autouse=True)
def hurried():
    """Compile quickly here: other tests use the optimised library."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "FLAGS", (*building.FLAGS, "-O0"))
        yield


@pytest.fixture(scope="module")
def built(hurried, tmp_path_factory):
    return build([tmp_path_factory.mktemp("built")])


@pytest.fixture
def library_file(built, tmp_path):
    return Path(shutil.copy(built, tmp_path))


@needs_compiler
def test_a_library_is_built_once_and_found_again(built):
    assert find_library([built.parent]) == built
    assert [file.name for file in built.parent.iterdir()] == [library_name()]
    assert open_library([built.parent]).musicgen_level(0) == b"plain"


@needs_compiler
@pytest.mark.parametrize("changed", ["step.c", "kernels.h", "draw.c"])
def test_another_source_gets_another_library(monkeypatch, tmp_path, built, changed):
    folder = shutil.copytree(building.SOURCES, tmp_path / "native")
    monkeypatch.setattr(building, "SOURCES", folder)
    assert find_library([built.parent]) == built
    with (folder / changed).open("a") as file:
        file.write("\n")
    assert find_library([built.parent]) is None


@needs_compiler
@pytest.mark.parametrize("length", [0, 100, 40_000, -1])
def test_a_truncated_library_is_not_found(library_file, length, monkeypatch):
    whole = library_file.read_bytes()
    library_file.write_bytes(whole[:length])
    assert find_library([library_file.parent]) is None
    monkeypatch.setenv("CC", NO_COMPILER["CC"])
    with pytest.raises(NativeUnavailableError, match="could not be built: no C compiler"):
        open_library([library_file.parent])
    library_file.write_bytes(whole)
    assert find_library([library_file.parent]) == library_file


def _seal(body):
    return body + building._SEAL + building.hashlib.sha256(body).hexdigest().encode()


@needs_compiler
def test_a_library_of_another_machine_is_replaced(tmp_path):
    file = tmp_path / library_name()
    file.write_bytes(_seal(b"\x7fELF of another machine"))
    assert open_library([tmp_path]).musicgen_runs(0) == 1


def test_a_missing_compiler_is_reported_in_one_line(monkeypatch, tmp_path):
    (tmp_path / library_name()).write_bytes(_seal(b"\x7fELF of another machine"))
    monkeypatch.setenv("CC", NO_COMPILER["CC"])
    with pytest.raises(NativeUnavailableError) as caught:
        open_library([tmp_path])
    assert str(caught.value).startswith("The native step could not be built: no C compiler")
    assert "\n" not in str(caught.value)


@needs_compiler
def test_a_library_with_other_functions_is_refused(monkeypatch, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "other.c").write_text("int other(void) { return 1; }\n")
    monkeypatch.setattr(building, "SOURCES", tmp_path / "other")
    other = build([tmp_path]).read_bytes()
    monkeypatch.undo()
    (tmp_path / library_name()).write_bytes(other)
    with pytest.raises(NativeUnavailableError, match=r"could not be loaded.*musicgen_level"):
        open_library([tmp_path])


@pytest.mark.parametrize(("command", "is_there"), [("  ", True), ("cc 'x", False)])
def test_a_malformed_compiler_command_means_no_compiler(monkeypatch, tmp_path, command, is_there):
    monkeypatch.setenv("CC", command)
    monkeypatch.setattr(building, "library_folders", lambda: [tmp_path])
    assert is_available() == (is_there and shutil.which("cc") is not None)
    if not is_there:
        with pytest.raises(NativeUnavailableError, match='CC is "cc \'x", which is not a command'):
            open_library([tmp_path])


def test_a_compiler_that_fails_is_quoted_in_one_line(monkeypatch, tmp_path):
    failing = tmp_path / "cc"
    failing.write_text("#!/bin/sh\necho 'In file step.c:' >&2\necho 'error: no room' >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("CC", str(failing))
    with pytest.raises(BuildError, match=r"failed: error: no room$"):
        build([tmp_path / "cache"])
    assert list((tmp_path / "cache").iterdir()) == []


@needs_compiler
def test_a_read_only_folder_is_skipped(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert build([blocked / "cache", tmp_path / "cache"]).parent == tmp_path / "cache"
    with pytest.raises(BuildError, match=r"Not a directory$"):
        build([blocked / "cache"])


@needs_compiler
def test_two_concurrent_builds_leave_one_library(tmp_path):
    with ThreadPoolExecutor(2) as threads:
        files = list(threads.map(build, [[tmp_path]] * 2))
    assert files == [find_library([tmp_path])] * 2
    assert list(tmp_path.iterdir()) == files[:1]


@pytest.mark.parametrize("compiler", ["cc", NO_COMPILER["CC"]])
def test_main_builds_the_library_at_set_up(compiler, tmp_path):
    hurried = tmp_path / "cc"
    hurried.write_text(f'#!/bin/sh\nexec {compiler} "$@" -O0\n')
    hurried.chmod(0o755)
    chosen = str(hurried) if compiler == "cc" else compiler
    where = {"XDG_CACHE_HOME": str(tmp_path), "CC": chosen, "PATH": os.environ["PATH"]}
    code = (
        "import sys; sys.prefix = sys.base_prefix\n"
        "from services.generation.musicgen.decoders.native.build import main; main()\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=where, capture_output=True, text=True, check=False
    )
    if done.returncode:
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("MusicGen's native step could not be built: no C compiler")
    else:
        assert [file.suffix for file in (tmp_path / "dgx-music").iterdir()] == [".so"]


def _compile_check(out, *flags, compiler="cc"):
    command = [compiler, "-g", "-std=gnu11", "-pthread", "-Wall", "-Wextra", "-Werror", *flags]
    command += [f'-D{name.upper()}="{building.SOURCES / name}.c"' for name in ("step", "draw")]
    command += [str(CHECK), "-o", str(out), "-lm"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _assert_check_passes(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == len(done.stdout.splitlines()) > 10


@needs_compiler
def test_the_c_code_has_no_warnings(tmp_path):
    made = _compile_check(tmp_path / "check", "-fsyntax-only")
    assert made.returncode == 0, made.stderr


@needs_compiler
@pytest.mark.nightly
def test_the_c_code_passes_the_sanitizers(tmp_path):
    flags = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    made = _compile_check(tmp_path / "check", *flags)
    if made.returncode and "san" in made.stderr.splitlines()[-1]:
        pytest.skip("the compiler has no sanitizers")
    assert made.returncode == 0, made.stderr
    _assert_check_passes([tmp_path / "check"])


def test_the_kernels_for_arm_agree_with_plain_c(tmp_path):
    compiler, emulator = "aarch64-linux-gnu-gcc", shutil.which("qemu-aarch64")
    if shutil.which(compiler) is None or emulator is None:
        pytest.skip("needs gcc-aarch64-linux-gnu and qemu-user")
    made = _compile_check(tmp_path / "check", "-O1", "-static", compiler=compiler)
    assert made.returncode == 0, made.stderr
    _assert_check_passes([emulator, "-cpu", "max", tmp_path / "check"])


def _processor(folder, siblings):
    for cpu in os.sched_getaffinity(0):
        topology = folder / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "core_cpus_list").write_text(siblings(cpu))


def test_siblings_of_one_core_count_once(tmp_path):
    cpus = len(os.sched_getaffinity(0))
    quota = tmp_path / "none"
    _processor(tmp_path / "apart", lambda cpu: f"{cpu}\n")
    _processor(tmp_path / "together", lambda _: "0-1\n")
    assert physical_cores(tmp_path / "apart", quota) == cpus
    assert physical_cores(tmp_path / "together", quota) == 1
    assert physical_cores(tmp_path / "unknown", quota) == cpus


@pytest.mark.parametrize(
    ("limit", "most"),
    [("max 100000", None), ("150000 100000", 1), ("50000 100000", 1), ("?", None)],
)
def test_the_quota_of_a_container_limits_the_threads(tmp_path, limit, most):
    quota = tmp_path / "cpu.max"
    quota.write_text(limit)
    cpus = len(os.sched_getaffinity(0))
    assert physical_cores(tmp_path, quota) == (most or cpus)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({}, "10000 1", marks=needs_compiler),
        ({"XDG_CACHE_HOME": "/nowhere", **NO_COMPILER}, "None 1"),
        ({"GOMP_SPINCOUNT": "7", "THP_MEM_ALLOC_ENABLE": "0"}, "7 0"),
        ({"OMP_WAIT_POLICY": "passive"}, "None 1"),
    ],
)
def test_torch_variables_are_set_before_its_import_unless_the_user_set_them(given, expected):
    code = (
        "import os, sys; sys.prefix = sys.base_prefix; import services.generation.musicgen\n"
        "assert 'torch' not in sys.modules\n"
        "print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('THP_MEM_ALLOC_ENABLE'))\n"
    )
    environment = {"PATH": os.environ["PATH"], **given}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == (expected, "")
