"""What stands around the code is true of it: packaging, licences, CI, forms and the README."""

import importlib.util
import os
import re
import tomllib
from importlib.metadata import files
from pathlib import Path

import pytest
import yaml
from trove_classifiers import classifiers

from services import __version__

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
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*_*.yml"))
PYTHON = "Programming Language :: Python :: "


def read_yaml(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def third_party():
    path = ROOT / "scripts" / "third_party.py"
    spec = importlib.util.spec_from_file_location("third_party", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_ci_checks_out_and_calls_the_script_of_the_repository():
    workflow = read_yaml(GITHUB / "workflows" / "ci.yml")
    (job,) = workflow["jobs"].values()
    checkout, script = job["steps"]
    assert re.fullmatch(r"actions/checkout@[0-9a-f]{40}", checkout["uses"])
    assert script == {"run": ".ci/run"}
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is True
    assert 0 < job["timeout-minutes"] < 360
    # YAML 1.1 reads the key `on` as a boolean.
    assert set(workflow[True]) == {"push", "pull_request"}


def test_ci_runs_on_the_oldest_and_the_newest_python_of_the_classifiers():
    (job,) = read_yaml(GITHUB / "workflows" / "ci.yml")["jobs"].values()
    versions = [
        line.removeprefix(PYTHON) for line in PROJECT["classifiers"] if "Python :: 3." in line
    ]
    assert job["strategy"]["matrix"]["python"] == [versions[0], versions[-1]]
    assert job["container"] == "python:${{ matrix.python }}-bookworm"
    assert PROJECT["requires-python"] == f">={versions[0]}"


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.name)
def test_an_issue_form_has_what_github_needs(form):
    content = read_yaml(form)
    assert {"name", "description", "body"} <= set(content)
    fields = [part for part in content["body"] if part["type"] != "markdown"]
    assert {part["type"] for part in fields} <= {"input", "textarea", "dropdown", "checkboxes"}
    assert all(part["attributes"]["label"] for part in fields)
    assert len({part["id"] for part in fields}) == len(fields)
    assert any(part["validations"]["required"] is True for part in fields if "validations" in part)


def test_a_bug_report_asks_for_what_finds_the_bug():
    (form,) = (path for path in FORMS if path.stem == "bug_report")
    ids = {part["id"] for part in read_yaml(form)["body"] if "id" in part}
    assert {"command", "version", "doctor", "log"} <= ids


def test_security_reports_are_led_to_the_private_form():
    config = read_yaml(GITHUB / "ISSUE_TEMPLATE" / "config.yml")
    (link,) = config["contact_links"]
    assert link["url"] == f"{REPOSITORY}/security/advisories/new"
    assert link["url"] in (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert link["name"]
    assert link["about"]


def test_recipes_and_files_of_the_pull_request_template_are_there():
    text = (GITHUB / "PULL_REQUEST_TEMPLATE.md").read_text(encoding="utf-8")
    recipes = re.findall(r"^([a-z-]+)\b.*:", (ROOT / "justfile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\./just ([a-z-]+)", text)) <= set(recipes)
    named = re.findall(r"`([\w./]*(?:\.md|\.toml|/run|/))`", text)
    assert {".ci/run", "CHANGELOG.md"} <= set(named)
    assert all((ROOT / name).exists() for name in named)


def test_the_citation_is_of_this_version():
    citation = read_yaml(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == __version__
    assert citation["authors"] == PROJECT["authors"]
    assert (citation["license"], citation["title"]) == (PROJECT["license"], "DGX Music")
    assert citation["abstract"] == PROJECT["description"]
    assert citation["repository-code"] == REPOSITORY
    assert citation["message"]


def test_the_changelog_has_the_sections_of_keep_a_changelog():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert versions
    for version in versions:
        assert re.fullmatch(r"\d+\.\d+\.\d+ - (Unreleased|\d{4}-\d\d-\d\d)", version)
    sections = set(re.findall(r"^### (.*)", text, re.MULTILINE))
    assert {"Added"} <= sections
    assert sections <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_classifiers_exist_and_say_what_is_shipped():
    assert set(PROJECT["classifiers"]) <= classifiers
    assert ("Typing :: Typed" in PROJECT["classifiers"]) == (ROOT / "services/py.typed").exists()


def test_text_files_are_as_the_editorconfig_says():
    (longest,) = re.findall(
        r"^max_line_length = (\d+)$", (ROOT / ".editorconfig").read_text(), re.MULTILINE
    )
    assert int(longest) == PYPROJECT["tool"]["ruff"]["line-length"]
    folders = (".github", "alembic", "docs", "scripts", "services", "tests")
    suffixes = {".c", ".h", ".html", ".js", ".json", ".md", ".py", ".yml"}
    paths = {path for folder in folders for path in (ROOT / folder).rglob("*")}
    checked = {path for path in paths if path.suffix in suffixes}
    assert {".c", ".md", ".py", ".yml"} <= {path.suffix for path in checked}
    for path in checked:
        data = path.read_bytes()
        assert not data or data.endswith(b"\n"), path
        assert re.search(rb"[ \t\r]$|\t", data, re.MULTILINE) is None, path


def test_the_third_party_page_is_what_the_script_writes(third_party):
    assert third_party.PAGE.read_text(encoding="utf-8") == third_party.render(), "run ./just docs"


def test_the_third_party_page_has_every_locked_package(third_party):
    listed = set()
    for name, versions in re.findall(
        r"^\| ([a-z0-9-]+) \| (\d[^|]*) \|", third_party.PAGE.read_text(), re.MULTILINE
    ):
        listed |= {(name, version) for version in versions.split(", ")}
    locked = set()
    for lock in (ROOT / "requirements").glob("*.lock"):
        lines = [line for line in lock.read_text().splitlines() if "==" in line]
        locked |= {tuple(re.split(r"(?:\[.*\])?==", line.split()[0])) for line in lines}
    (torch,) = re.findall(r'"torch==(.*)"', (ROOT / "pyproject.toml").read_text())
    assert listed == locked | {("torch", torch)}


def test_the_third_party_page_names_what_users_wheels_bundle(third_party):
    bundling = {
        package.name
        for package in third_party.locked()
        if package.on_linux
        and package.installations != ("development",)
        and any(".libs/" in str(file) for file in files(package.name) or [])
    }
    assert {"numpy", "psycopg-binary"} <= bundling <= set(third_party.BUNDLED)
    assert set(third_party.BUNDLED) <= {package.name for package in third_party.locked()}


def test_a_licence_that_nobody_stated_is_an_error(third_party, monkeypatch):
    monkeypatch.delitem(third_party.LICENCES, "sqlcipher3")
    with pytest.raises(LookupError, match="sqlcipher3"):
        third_party.licence_of("sqlcipher3")
