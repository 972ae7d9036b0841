"""The commands where finished files are kept in a bucket."""

import json

import pytest
import soundfile as sf

pytestmark = pytest.mark.integration


def test_music_goes_to_the_bucket_and_is_found_delivered_and_forgotten_there(home, bucket_url):
    home.environment["DGX_MUSIC_FILE_STORE"] = bucket_url
    made = home.run("generate", "house at 120 BPM", "--duration", "1", "--output", "loop.flac")
    assert made.stdout.strip() == "loop.flac", made.stderr
    assert sf.info(home.path / "loop.flac").frames == 48_000
    (kept,) = home.files()
    assert kept.parent.name == ".dgx-cache"
    stats = json.loads(home.run("files", "stats", "--json").stdout)
    assert (stats["total_files"], stats["folder"], stats["free_bytes"]) == (1, bucket_url, None)
    ((name,),) = home.rows("file_path")
    assert stats["newest_file"] == f"{bucket_url}/{name}"
    assert home.run("db", "cleanup", "--older-than", "0", "--yes").returncode == 0
    assert json.loads(home.run("files", "stats", "--json").stdout)["total_files"] == 0
