"""The record of installed models."""

from dataclasses import replace

import pytest

from services import storage
from services.generation.composer.engine import FACTS
from services.library.installed_models import record_installed_model


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "models" / "tone" / "weights"
    folder.mkdir(parents=True)
    (folder.parent / "config.json").write_bytes(b"{}")
    (folder / "part.bin").write_bytes(b"x" * 10)
    return folder.parent


def recorded():
    with storage.get_session(read_only=True) as session:
        return {row.name: row for row in storage.get_models(session)}


def test_a_model_is_recorded_with_its_size_and_relative_path(sqlite_database, model):
    record_installed_model(FACTS, model, model.parent, revision="abc")
    row = recorded()[FACTS.name]
    assert (row.size_bytes, row.path, row.revision) == (12, "tone", "abc")
    assert row.licence == FACTS.output_licence


def test_installing_again_replaces_the_record(sqlite_database, model):
    record_installed_model(FACTS, model, model.parent, revision="abc")
    louder = replace(FACTS, output_licence="CC0-1.0")
    record_installed_model(louder, model, model.parent, revision=None)
    (row,) = recorded().values()
    assert (row.revision, row.licence) == ("unknown", "CC0-1.0")
