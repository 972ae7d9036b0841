"""The documentation says what the code says."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from services import __version__, errors
from services.cli import app
from services.cli.console import READER_GONE_EXIT_CODE
from services.cli.gpu import NO_GPU_EXIT_CODE

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("docs_generator", ROOT / "scripts" / "docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_generated_blocks_are_those_of_the_code(generator, page):
    text = page.read_text(encoding="utf-8")
    assert generator.update_blocks(text) == text, "run ./just docs"


def test_every_command_is_documented(generator):
    def names(typer_app, prefix=""):
        for command in typer_app.registered_commands:
            yield f"{prefix}{command.name or command.callback.__name__.replace('_', '-')}"
        for group in typer_app.registered_groups:
            yield f"{prefix}{group.name}"
            yield from names(group.typer_instance, f"{prefix}{group.name} ")

    assert set(generator.COMMANDS) == {"", *names(app)}


def test_every_exit_code_of_the_errors_is_documented():
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    classes = [item for item in vars(errors).values() if isinstance(item, type)]
    own = {0, READER_GONE_EXIT_CODE, NO_GPU_EXIT_CODE}
    codes = {item.exit_code for item in classes} | own
    assert codes == documented


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"


def test_recipes_named_in_the_pages_exist():
    recipes = set(
        re.findall(r"^([a-z][a-z-]*)\b.*:", (ROOT / "justfile").read_text(), re.MULTILINE)
    )
    for page in PAGES:
        for recipe in re.findall(r"\./just ([a-z-]+)", page.read_text(encoding="utf-8")):
            assert recipe in recipes, f"{page.name}: ./just {recipe}"


def test_the_version_is_in_the_change_log():
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_dependency_of_the_project_is_pinned_with_hashes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lock = (ROOT / "requirements" / "dev.lock").read_text()
    core = (ROOT / "requirements" / "core.lock").read_text()
    for requirement in [*project["dependencies"], *extras["postgres"], *extras["dev"]]:
        name = re.split(r"[\[<>=]", requirement)[0]
        if name != project["name"]:
            assert re.search(
                rf"^{name}(\[\w+\])?==\S+.*\\\n    --hash=sha256:", lock, re.MULTILINE
            ), name
    for requirement in project["dependencies"]:
        assert re.search(rf"^{re.split(r'[<>=]', requirement)[0]}==", core, re.MULTILINE)
    pins = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock, re.MULTILINE))
    assert dict(re.findall(r"^([a-z0-9-]+)==(\S+)", core, re.MULTILINE)).items() <= pins.items()
