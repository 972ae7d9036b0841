"""A long-lived process opens its connections once."""

from pathlib import Path

import pytest

from services import storage

pytestmark = pytest.mark.integration


def _files_open(path):
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(link.resolve() == path for link in links)


def test_long_lived_process_opens_all_connections_at_the_start(tmp_path):
    file = (tmp_path / "music.db").resolve()
    storage.init_db(f"sqlite:///{file}")
    try:
        before = _files_open(file)
        storage.open_connections()
        opened = _files_open(file)
        assert opened > before + 20
        storage.open_connections()
        assert _files_open(file) == opened
        with storage.get_session() as session:
            storage.create_generation(session, "a beat", "composer", 1.0, 48_000, 2, "a.wav")
        assert _files_open(file) == opened
    finally:
        storage.close_db()
