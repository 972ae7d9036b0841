"""docs/database.md agrees with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services import storage
from services.storage.schema import HEAD_REVISION

PAGE = (Path(__file__).parents[2] / "docs" / "database.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`([a-z_0-9]+)", PAGE))


@pytest.mark.parametrize("table", storage.Base.metadata.sorted_tables, ids=lambda table: table.name)
def test_every_column_and_index_is_documented(table: object) -> None:
    columns = {column.name for column in table.columns}  # type: ignore[attr-defined] - a Table
    indexes = {index.name for index in table.indexes}  # type: ignore[attr-defined] - a Table
    assert columns | indexes <= NAMED


def test_documented_versions_are_those_of_the_code() -> None:
    assert f"`{HEAD_REVISION}`, schema version {storage.get_schema_version()}" in PAGE


def test_documented_functions_exist() -> None:
    called = set(re.findall(r"`([a-z_]+)\(", PAGE))
    known = set(storage.__all__) | {"get_metadata"}
    assert called <= known
    assert len(called) > 10


def test_documented_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    page = names["page"]
    assert isinstance(page, storage.Page)
    assert [row.prompt for row in page.items] == ["lo-fi beat at 82 BPM"]
