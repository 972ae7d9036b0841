"""Rows of the files that belong to takes, on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import IntegrityError

from services import storage

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("database")]


def add_generation() -> str:
    with storage.get_session() as session:
        return storage.create_generation(session, "words", "composer", 1.0, 48_000, 2, "a.wav").id


def file(name: str, kind: str = "stem") -> storage.NewAttachment:
    return storage.NewAttachment(
        kind=kind, name=name, file_path=f"a.stems/{name}", bytes=2**40, sha256="0f" * 32
    )


def read(*ids: str) -> dict[str, list[tuple[str, str]]]:
    with storage.get_session(read_only=True) as session:
        found = storage.get_attachments(session, ids)
    return {one: [(row.kind, row.name) for row in rows] for one, rows in found.items()}


def test_files_are_read_with_their_generations_stems_first() -> None:
    first, second, third = (add_generation() for _ in range(3))
    with storage.get_session() as session:
        files = [file("score", "midi"), file("drums"), file("Bass")]
        storage.replace_attachments(session, first, files)
        storage.replace_attachments(session, second, [file("drums")])
    assert read(first, second, third) == {
        first: [("stem", "Bass"), ("stem", "drums"), ("midi", "score")],
        second: [("stem", "drums")],
    }
    assert read() == {}
    with storage.get_session(read_only=True) as session:
        (row,) = storage.get_attachments(session, [second])[second]
        assert (row.bytes, row.sha256, row.file_path) == (2**40, "0f" * 32, "a.stems/drums")
        assert storage.sum_file_bytes(session) == 4 * 2**40


def test_files_are_replaced_and_deleted() -> None:
    first, second = add_generation(), add_generation()
    for names in (["drums", "bass"], ["drums", "lead"]):
        with storage.get_session() as session:
            storage.replace_attachments(session, first, [file(name) for name in names])
            storage.replace_attachments(session, second, [file("pad")])
    assert read(first) == {first: [("stem", "drums"), ("stem", "lead")]}
    with storage.get_session() as session:
        assert storage.delete_attachments(session, first, "a.stems/lead") == 1
        assert storage.delete_attachments(session, first, "a.stems/lead") == 0
    assert read(first) == {first: [("stem", "drums")]}
    with storage.get_session() as session:
        storage.delete_generation(session, first)
    assert read(first, second) == {second: [("stem", "pad")]}


@pytest.mark.parametrize("kind", ["stem", "midi", "video"])
def test_rows_of_no_generation_or_kind_are_refused(kind: str) -> None:
    owner = add_generation() if kind == "video" else "nobody"
    with pytest.raises(IntegrityError), storage.get_session() as session:
        storage.replace_attachments(session, owner, [file("drums", kind)])
    assert read(owner) == {}
