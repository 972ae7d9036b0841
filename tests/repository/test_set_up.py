"""The set-up script, as far as it goes without a network."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
TOOLS = ("cat", "cksum", "dirname", "flock", "mkdir", "readlink", "rm", "sh")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A copy of what set-up reads, and a PATH with a handful of tools and no Python."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup", tmp_path / "scripts")
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    for name in ("just", "justfile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        if found := shutil.which(tool):
            (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env={"PATH": str(folder / "bin")},
        capture_output=True,
        text=True,
        check=False,
    )


def pretend(folder: Path, name: str, script: str) -> None:
    program = folder / "bin" / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize("script", ["just", "scripts/setup", "scripts/lock"])
def test_scripts_are_valid_for_the_system_shell(script):
    subprocess.run(["sh", "-n", str(ROOT / script)], check=True)
    assert os.access(ROOT / script, os.X_OK)


def test_without_a_python_it_says_what_to_install(bare):
    result = run(bare, "./just", "generate", "lo-fi")
    assert result.returncode == 1
    assert "no Python 3.11 or newer" in result.stderr
    assert "apt install python3" in result.stderr
    assert result.stdout == ""


def test_a_python_that_is_too_old_is_not_taken(bare):
    pretend(bare, "python3", "exit 1")
    result = run(bare, "./just", "generate", "lo-fi")
    assert result.returncode == 1
    assert "no Python 3.11 or newer" in result.stderr


def test_a_python_without_venv_gets_the_advice_for_debian(bare):
    pretend(
        bare,
        "python3",
        'case "$1" in -c) exit 0 ;; --version) echo Python 3.12 ;; *) exit 1 ;; esac',
    )
    result = run(bare, "./just", "generate", "lo-fi")
    assert result.returncode == 1
    assert "apt install python3-venv" in result.stderr


def finish(folder: Path) -> None:
    """Leave what a finished set-up leaves, as far as the script looks."""
    script = (
        "mkdir -p .venv/bin",
        'printf "#!/bin/sh\\nexit 0\\n" >.venv/bin/dgx-music',
        "cp .venv/bin/dgx-music .venv/bin/python",
        "chmod +x .venv/bin/*",
        "{ pwd -P; cat pyproject.toml requirements/bootstrap.lock requirements/core.lock "
        "scripts/setup; } | cksum >.venv/.set-up-core",
    )
    subprocess.run(["sh", "-c", "\n".join(script)], cwd=folder, check=True)


def test_a_finished_set_up_is_not_done_again(bare):
    finish(bare)
    done = run(bare, "scripts/setup", "core")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (bare / "requirements" / "core.lock").write_text("changed\n")
    assert "installing" in run(bare, "scripts/setup", "core").stderr


def test_a_finished_set_up_is_not_done_again_through_a_link(bare, tmp_path_factory):
    finish(bare)
    link = tmp_path_factory.mktemp("elsewhere") / "link"
    link.symlink_to(bare)
    for script in (link / "scripts" / "setup", link / "setup"):
        if not script.exists():
            script.symlink_to("scripts/setup")
        done = run(bare, str(script), "core")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_folder_that_cannot_be_written_is_named(bare):
    powers = "-dac_override,-dac_read_search,-fowner"
    prefix = ["setpriv", f"--bounding-set={powers}", f"--inh-caps={powers}"]
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root ignores file permissions and setpriv is not installed")
    bare.chmod(0o555)
    try:
        command = [*(prefix if os.geteuid() == 0 else []), str(bare / "scripts" / "setup"), "core"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        bare.chmod(0o755)
    assert result.returncode == 1
    assert result.stderr == (
        f"set-up: {bare} cannot be written. Set up a copy in a folder of yours.\n"
    )


@pytest.mark.parametrize("damage", ["rm .venv/bin/python", "touch .venv/.unfinished"])
def test_an_interrupted_or_orphaned_set_up_is_made_anew(bare, damage):
    finish(bare)
    subprocess.run(["sh", "-c", damage], cwd=bare, check=True)
    result = run(bare, "scripts/setup", "core")
    assert result.returncode == 1
    assert "no Python 3.11 or newer" in result.stderr


def test_every_recipe_shows_in_the_list():
    listed = subprocess.run(
        [str(ROOT / "just"), "--list"], capture_output=True, text=True, check=True
    ).stdout
    for recipe in (
        "init", "generate", "history", "test", "test-unit", "test-integration", "test-coverage",
        "format", "lint", "typecheck", "quality", "db-init", "db-migrate", "db-reset",
        "benchmark", "clean", "ci",
    ):  # fmt: skip
        assert f"    {recipe}" in listed
