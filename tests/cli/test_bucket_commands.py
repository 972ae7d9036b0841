"""The commands with finished files in a bucket."""

import json

import pytest
import soundfile as sf

pytestmark = pytest.mark.integration


def test_take_is_stored_copied_counted_and_deleted_in_the_bucket(home, bucket_url):
    home.environment["DGX_MUSIC_FILE_STORE"] = bucket_url
    made = home.call("generate", "house at 120 BPM", "--duration", "1", "--output", "loop.flac")
    assert made.stdout.strip() == "loop.flac", made.stderr
    assert sf.info(home.path / "loop.flac").frames == 48_000
    (kept,) = home.files()
    assert kept.parent.name == ".dgx-cache"
    stats = json.loads(home.call("files", "stats", "--json").stdout)
    assert (stats["total_files"], stats["folder"], stats["free_bytes"]) == (1, bucket_url, None)
    ((name,),) = home.rows("file_path")
    assert stats["newest_file"] == f"{bucket_url}/{name}"
    assert home.call("db", "cleanup", "--older-than", "0", "--yes").returncode == 0
    assert json.loads(home.call("files", "stats", "--json").stdout)["total_files"] == 0
