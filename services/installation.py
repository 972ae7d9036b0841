"""How this copy is installed, so that a hint names the command that works here."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent
_CHECKOUT_FILES = ("pyproject.toml", "justfile")


def find_checkout(package: Path = _PACKAGE) -> Path | None:
    """Return the checkout that `package` (its `services` folder) is part of; None in a wheel."""
    root = package.parent
    return root if all((root / name).is_file() for name in _CHECKOUT_FILES) else None


def name_install_command(*models: str, needs_packages: bool) -> str:
    """Return the command that installs neural models.

    Args:
        models: their names; none is the smallest.
        needs_packages: whether the packages that they run on are missing too.
    """
    names = " ".join(["", *models])
    if find_checkout() is not None:
        return f"./just install-models{names}"
    packages = "pip install 'dgx-music[musicgen]' && " if needs_packages else ""
    return f"{packages}dgx-music models install{names}"


def name_repair_command() -> str:
    """Return the command that installs this project again."""
    return "./just init" if find_checkout() else "pip install --force-reinstall dgx-music"
