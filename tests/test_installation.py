"""Hints that fit how this copy is installed."""

import pytest

from services import installation
from services.installation import find_checkout, name_install_command, name_repair_command


@pytest.mark.parametrize("missing", ["pyproject.toml", "justfile", None])
def test_a_checkout_has_its_project_files_beside_the_package(tmp_path, missing):
    for name in {"pyproject.toml", "justfile"} - {missing}:
        (tmp_path / name).touch()
    expected = tmp_path if missing is None else None
    assert find_checkout(tmp_path / "services") == expected


def test_in_a_checkout_hints_name_recipes():
    assert name_install_command(needs_packages=True) == "./just install-models"
    assert name_install_command("a", "b", needs_packages=False) == "./just install-models a b"
    assert name_repair_command() == "./just init"


def test_in_a_wheel_hints_name_the_command(monkeypatch):
    monkeypatch.setattr(installation, "find_checkout", lambda: None)
    assert name_install_command("a", needs_packages=False) == "dgx-music models install a"
    packages, models = name_install_command(needs_packages=True).split(" && ")
    assert (packages, models) == ("pip install 'dgx-music[musicgen]'", "dgx-music models install")
    assert name_repair_command().startswith("pip install ")
