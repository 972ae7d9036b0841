"""Imports lead one way: the contract in pyproject.toml refuses any other."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path):
    ignore = shutil.ignore_patterns("__pycache__", "*.c", "*.h", "docs_assets")
    shutil.copytree(ROOT / "services", tmp_path / "services", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def check_imports(checkout: Path) -> subprocess.CompletedProcess[str]:
    program = (
        "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    )
    return subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )


def add_line(file: Path, line: str) -> None:
    file.write_text(file.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")


def test_the_imports_of_this_tree_are_allowed(checkout):
    result = check_imports(checkout)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("audio/arrays.py", "import services.storage"),
        ("library/takes.py", "from services.jobs.models import Job"),
        ("generation/engine.py", "if TYPE_CHECKING:\n    from services.worker import worker"),
        ("worker/retry.py", "from services.operations import health"),
        ("storage/columns.py", "import services.storage.models"),
    ],
)
def test_an_import_that_leads_up_or_in_a_circle_is_refused(checkout, file, line):
    add_line(checkout / "services" / file, line)
    result = check_imports(checkout)
    assert result.returncode == 1, result.stdout
    assert "BROKEN" in result.stdout


def test_a_new_room_must_be_given_a_place(checkout):
    (checkout / "services" / "attic").mkdir()
    (checkout / "services" / "attic" / "__init__.py").touch()
    result = check_imports(checkout)
    assert result.returncode == 1
    assert "services.attic" in result.stdout + result.stderr


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_room_has_a_paragraph():
    rooms = {
        f"{folder.relative_to(ROOT / 'services')}/"
        for folder in (ROOT / "services").rglob("*")
        if any(folder.glob("*.py"))
    } | {file.name for file in (ROOT / "services").glob("[a-z]*.py")}
    assert {room for room in rooms if f"`{room}`" not in ARCHITECTURE} == set()


def test_every_place_to_change_something_is_there():
    table = ARCHITECTURE.partition("## Where to change what")[2].partition("## Glossary")[0]
    places = re.findall(r"`([a-z_/]+(?:\.py|/))`", table)
    roots = (ROOT / "services", ROOT)
    assert len(places) > 25
    assert {
        place for place in places if not any((root / place).exists() for root in roots)
    } == set()


def test_the_glossary_is_short():
    rows = re.findall(r"^\| (\S.*?) \|", ARCHITECTURE.partition("## Glossary")[2], re.MULTILINE)
    assert 15 < len(rows) - 2 <= 25
