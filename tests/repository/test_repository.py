"""What stands around the code is true of it: packaging, licences, CI, forms and the README."""

import re
import tomllib
from pathlib import Path

import pytest
from trove_classifiers import classifiers

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
REPOSITORY = PROJECT["urls"]["Homepage"]
RAW = REPOSITORY.replace("github.com", "raw.githubusercontent.com")
PAGES = [
    *(ROOT / "pyproject.toml", *ROOT.glob("*.md"), *ROOT.glob("*.cff")),
    *(path for path in GITHUB.rglob("*") if path.is_file()),
]


def test_the_readme_has_absolute_links_alone():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(\s*([^)\s]+)", text)
    targets += re.findall(r"^\[[^]]+\]:\s*(\S+)", text, re.MULTILINE)
    targets += re.findall(r"(?:src|href)=\"([^\"]+)", text)
    assert any(target.startswith(f"{RAW}/main/docs/pictures/") for target in targets)
    assert [target for target in targets if not target.startswith("https://")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_into_the_repository_name_files_that_are_there(page):
    text = page.read_text(encoding="utf-8")
    for base in (f"{REPOSITORY}/blob", f"{REPOSITORY}/tree", RAW):
        for path in re.findall(rf"{re.escape(base)}/main/([^\s)\"'#>]+[\w])", text):
            assert (ROOT / path).exists(), path
    named = re.findall(r"github(?:usercontent)?\.com/([\w-]+/dgx-music)\b", text)
    assert {f"https://github.com/{name}" for name in named} <= {REPOSITORY}


def test_the_classifiers_exist_and_say_what_is_shipped():
    assert set(PROJECT["classifiers"]) <= classifiers
    assert ("Typing :: Typed" in PROJECT["classifiers"]) == (ROOT / "services/py.typed").exists()
