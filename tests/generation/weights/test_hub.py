"""The Hugging Face hub: digests of files, and messages for what can go wrong."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from services.errors import CheckpointError
from services.generation.weights import hub
from services.generation.weights.hub import Hub, HubFile, Listing, digest

CONTENT = b"some content\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
GIT_SHA1 = "2ef267e25bd6c6a300bb473e604b092b6a48523b"
"""The output of `git hash-object`."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    return file


def describe(**fields: Any) -> HubFile:
    known = {"name": "file", "bytes": len(CONTENT), "sha256": None, "git_sha1": None}
    return HubFile(**(known | fields))


@pytest.mark.parametrize(
    ("fields", "matches"),
    [
        ({"sha256": SHA256}, True),
        ({"sha256": SHA256[::-1]}, False),
        ({"git_sha1": GIT_SHA1}, True),
        ({"git_sha1": GIT_SHA1[::-1]}, False),
        ({"sha256": SHA256, "bytes": 12}, False),
        ({"sha256": SHA256, "git_sha1": "wrong"}, True),
        ({}, True),
        ({"bytes": 12}, False),
    ],
)
def test_a_file_matches_by_size_and_digest(
    path: Path, fields: dict[str, Any], matches: bool
) -> None:
    assert describe(**fields).matches(path) is matches


def test_a_missing_file_or_a_folder_does_not_match(tmp_path: Path) -> None:
    assert not describe().matches(tmp_path / "none")
    size = tmp_path.stat().st_size
    assert not describe(bytes=size, sha256=SHA256).matches(tmp_path)


def test_the_digest_is_the_sha256_of_the_content(path: Path) -> None:
    assert digest(path) == SHA256


def fake_api(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    def model_info(*_: Any, **__: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(hub, "HfApi", lambda **_: SimpleNamespace(model_info=model_info))


def sibling(name: str, size: int | None, sha256: str | None = None) -> Any:
    lfs = None if sha256 is None else SimpleNamespace(sha256=sha256)
    return SimpleNamespace(rfilename=name, size=size, lfs=lfs, blob_id="b" * 40)


def test_files_are_described_by_the_digest_of_their_storage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = [sibling("config.json", 7), sibling("w.safetensors", 9, SHA256), sibling("empty", None)]
    fake_api(monkeypatch, SimpleNamespace(sha="a" * 40, siblings=files))
    listing = Hub().list_files("nobody/model", None)
    assert (listing.repository, listing.revision) == ("nobody/model", "a" * 40)
    assert listing.files == {
        "config.json": HubFile("config.json", 7, None, "b" * 40),
        "w.safetensors": HubFile("w.safetensors", 9, SHA256, None),
        "empty": HubFile("empty", 0, None, "b" * 40),
    }


@pytest.mark.parametrize(
    "info",
    [
        SimpleNamespace(sha=None, siblings=[sibling("a", 1)]),
        SimpleNamespace(sha="a" * 40, siblings=[]),
        SimpleNamespace(sha="a" * 40, siblings=None),
    ],
)
def test_a_repository_without_files_is_refused(monkeypatch: pytest.MonkeyPatch, info: Any) -> None:
    fake_api(monkeypatch, info)
    with pytest.raises(CheckpointError, match="lists no files of nobody/model"):
        Hub().list_files("nobody/model", None)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OfflineModeIsEnabled("offline"), "Unset it to install models"),
        (ValueError("not JSON"), "asks for a login"),
        (httpx2.ConnectTimeout(""), r"cannot be reached \(ConnectTimeout\)"),
        (httpx2.ConnectError("no route"), r"cannot be reached \(no route\).*download resumes"),
    ],
)
def test_each_failure_of_the_hub_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    fake_api(monkeypatch, error)
    with pytest.raises(CheckpointError, match=message) as caught:
        Hub().list_files("nobody/model", "main")
    assert caught.value.__cause__ is error


class Transfers:
    """Replaces the transfer of a file: each call appends one of the given blocks, or fails."""

    def __init__(self, *blocks: bytes | Exception) -> None:
        self.blocks = list(blocks)
        self.starts: list[int] = []

    def __call__(self, _url: str, out: Any, _file: HubFile, received: Any) -> None:
        self.starts.append(out.tell())
        block = self.blocks.pop(0) if self.blocks else b""
        if isinstance(block, Exception):
            raise block
        out.write(block)
        received(len(block))


def download(
    monkeypatch: pytest.MonkeyPatch, path: Path, transfers: Transfers, waits: tuple[float, ...]
) -> tuple[list[int], list[float]]:
    slept: list[float] = []
    received: list[int] = []
    monkeypatch.setattr(hub, "_fetch_rest", transfers)
    monkeypatch.setattr(hub.time, "sleep", slept.append)
    listing = Listing("nobody/model", "a" * 40, {})
    Hub("http://hub", waits).download(listing, describe(sha256=SHA256), path, received.append)
    return received, slept


def test_delays_start_again_after_progress(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    error = httpx2.ReadError("reset")
    transfers = Transfers(error, error, CONTENT[:4], error, CONTENT[4:])
    received, slept = download(monkeypatch, tmp_path / "file", transfers, (1.0, 2.0))
    assert slept == [1.0, 2.0, 1.0]
    assert transfers.starts == [0, 0, 0, 4, 4]
    assert received == [4, 9]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_the_last_error_is_reported_when_the_retries_are_used_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    transfers = Transfers(httpx2.ReadError("first"), httpx2.ReadError("second"))
    with pytest.raises(CheckpointError, match=r"cannot be reached \(second\)"):
        download(monkeypatch, tmp_path / "file", transfers, (1.0,))
    assert [path.name for path in tmp_path.iterdir()] == ["file.partial"]


def test_a_transfer_that_sends_nothing_is_reported_with_the_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="sent only 4 of 13 bytes of file"):
        download(monkeypatch, tmp_path / "file", Transfers(CONTENT[:4]), (1.0,))


def test_a_complete_partial_file_is_not_transferred(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file.partial").write_bytes(CONTENT)
    transfers = Transfers()
    assert download(monkeypatch, tmp_path / "file", transfers, ()) == ([], [])
    assert transfers.starts == []


def test_a_damaged_partial_file_is_transferred_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file.partial").write_bytes(b"?" * 4)
    transfers = Transfers(CONTENT[4:], CONTENT)
    received, _ = download(monkeypatch, tmp_path / "file", transfers, ())
    assert transfers.starts == [4, 0]
    assert received == [9, -13, 13]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_wrong_content_is_deleted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="sent file of nobody/model with another content"):
        download(monkeypatch, tmp_path / "file", Transfers(b"?" * 13), ())
    assert list(tmp_path.iterdir()) == []
