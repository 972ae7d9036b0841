"""Texts without the paths of this machine."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.config import Settings
from services.paths import hide_paths


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/music/2026/a.wav cannot be read.", ".../a.wav cannot be read."),
        ("Could not write '/srv/music/a.wav': full.", "Could not write '.../a.wav': full."),
        ("sqlite:////srv/music/jobs.db is locked.", "sqlite:///.../jobs.db is locked."),
        ("[Errno 13] Permission denied: '/srv/a b/c'", "[Errno 13] Permission denied: '.../c'"),
        ("/api/v1/jobs/1/file, http://a.b/c/d", "/api/v1/jobs/1/file, http://a.b/c/d"),
        ("cannot open:/srv/music/a.wav", "cannot open:.../a.wav"),
        ("//srv/music/a.wav is gone", ".../a.wav is gone"),
        ("/api/../srv/x.wav", ".../x.wav"),
        ("file:/srv/x/y.wav and file:///srv/x/y.wav", "file:.../y.wav and file:.../y.wav"),
        ("s3://studio/takes/a.wav", "s3://studio/takes/a.wav"),
        ("3/4 or 6/8 at 1/2/3, and/or /docs", "3/4 or 6/8 at 1/2/3, and/or /docs"),
    ],
)  # fmt: skip
def test_of_a_path_the_last_part_is_shown(text, shown):
    assert hide_paths(text) == shown


parts = st.text("abcXYZ019_+=@-", min_size=1, max_size=9)


@given(st.lists(parts, min_size=1, max_size=4), st.lists(parts, max_size=3))
def test_no_folder_of_the_settings_is_shown(folder, inside):
    home = Path("/", "srv", "my music", *folder)
    settings = Settings(_env_file=None, home=home, output_dir="my takes", models_dir="models")
    for known in (home, settings.output_dir, settings.models_dir):
        text = settings.hide_paths(f"{known.joinpath(*inside)}: it is full ({known}).")
        assert "srv" not in text
        assert "my takes" not in text
        assert text.endswith("_DIR)." if known != home else "_HOME).")


def test_a_folder_s_name_in_another_path_is_left():
    folders = [(Path("/data"), "HOME"), (Path("/data/out"), "OUT")]
    assert hide_paths("/data/out/x, /data, http://host/data/x", folders) == (
        "OUT/x, HOME, http://host/data/x"
    )
    assert hide_paths("/data.old/x/y is not /data.", folders) == ".../y is not HOME."
