"""The Hugging Face hub as the installer needs it: what a repository holds, and one file of it.

The addresses, the headers and the session are those of huggingface_hub, with its variables
(HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE). The download is ours, since theirs begins anew in another
process.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import httpx2
from huggingface_hub import HfApi, get_session, get_token, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import (
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from services.errors import CheckpointError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

WAITS_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""Before each further try of a download that brought nothing new."""

PARTIAL_SUFFIX = ".partial"

_ANSWER_SECONDS = 30.0

Received = Callable[[int], None]
"""Called with the bytes that came; less than zero where some have to come again."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository, as the hub describes it."""

    name: str
    bytes: int
    sha256: str | None
    """Of its content, where it is kept as a large file."""
    git_sha1: str | None
    """Of its content with git's heading: for small ones there is no other."""

    def matches(self, path: Path) -> bool:
        """Whether a file is this one to the last bit; False where there is none."""
        try:
            if path.stat().st_size != self.bytes:
                return False
            if self.sha256 is not None:
                return digest(path) == self.sha256
            if self.git_sha1 is not None:
                content = path.read_bytes()
                heading = b"blob %d\0" % len(content)
                # Not for safety: git names what it keeps by it.
                found = hashlib.sha1(heading + content, usedforsecurity=False)
                return found.hexdigest() == self.git_sha1
        except OSError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository holds at one commit."""

    repository: str
    revision: str
    """The commit, in full."""
    files: dict[str, HubFile]


class Hub:
    """The hub behind an address."""

    def __init__(
        self, endpoint: str | None = None, waits_seconds: Sequence[float] = WAITS_SECONDS
    ) -> None:
        """None as endpoint is the public hub, or that of HF_ENDPOINT."""
        self._endpoint = endpoint
        self._waits = waits_seconds

    def list_files(self, repository: str, revision: str | None) -> Listing:
        """Ask for the files of a repository at a commit, a branch, or (None) the newest commit.

        Raises:
            CheckpointError: there is no such repository or commit, or the hub cannot be reached.
        """
        with _hub_errors(repository, revision):
            found = HfApi(endpoint=self._endpoint).model_info(
                repository, revision=revision, files_metadata=True, timeout=_ANSWER_SECONDS
            )
        if found.sha is None or not found.siblings:
            raise CheckpointError(f"The hub names no files of {repository}. Try again later.")
        files = {one.rfilename: _described(one) for one in found.siblings}
        return Listing(repository, found.sha, files)

    def download(self, listing: Listing, file: HubFile, path: Path, received: Received) -> None:
        """Bring a file here; what an earlier call left half done is gone on with.

        The file is called `path` once it is whole and is what the hub says, and has another name
        until then.

        Raises:
            CheckpointError: the hub cannot be reached, or gives something else.
            OSError: the disk says no.
        """
        partial = path.with_name(path.name + PARTIAL_SUFFIX)
        url = hf_hub_url(
            listing.repository, file.name, revision=listing.revision, endpoint=self._endpoint
        )
        is_continued = partial.exists()
        with _hub_errors(listing.repository, listing.revision):
            _fetch(url, partial, file, received, self._waits)
            if is_continued and not file.matches(partial):
                # What was there may have been damaged by the crash that left it.
                received(-partial.stat().st_size)
                partial.unlink()
                _fetch(url, partial, file, received, self._waits)
        if not file.matches(partial):
            partial.unlink()
            raise CheckpointError(
                f"What the hub gave for {file.name} of {listing.repository} is not what it "
                "describes. Try again; if that does not help, look at what stands between this "
                "machine and it."
            )
        partial.rename(path)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _described(one: RepoSibling) -> HubFile:
    size = one.size if one.size is not None else 0
    sha256 = None if one.lfs is None else one.lfs.sha256
    return HubFile(one.rfilename, size, sha256, None if one.lfs is not None else one.blob_id)


def _fetch(
    url: str, partial: Path, file: HubFile, received: Received, waits: Sequence[float]
) -> None:
    tries = iter(waits)
    with partial.open("ab") as out:
        while out.tell() < file.bytes:
            before = out.tell()
            try:
                _fetch_rest(url, out, file, received)
                failure: Exception | None = None
            except httpx2.TransportError as error:
                failure = error
            if out.tell() > before:
                tries = iter(waits)
                continue
            wait = next(tries, None)
            if wait is None:
                raise failure or CheckpointError(
                    f"The hub gives no more of {file.name} than {out.tell():,} of {file.bytes:,} "
                    "bytes. Try again later."
                )
            time.sleep(wait)


def _fetch_rest(url: str, out: BinaryIO, file: HubFile, received: Received) -> None:
    start = out.tell()
    # As it lies there: what is packed for the way cannot be gone on with.
    headers = {"Accept-Encoding": "identity"}
    if token := get_token():
        headers["Authorization"] = f"Bearer {token}"
    if start:
        headers["Range"] = f"bytes={start}-"
    with get_session().stream(
        "GET", url, headers=headers, timeout=_ANSWER_SECONDS, follow_redirects=True
    ) as response:
        hf_raise_for_status(response)
        if start and response.status_code != httpx2.codes.PARTIAL_CONTENT:
            received(-start)
            out.seek(0)
            out.truncate()
        # As it comes: what is held back for a fuller block is lost where the connection ends.
        for block in response.iter_raw():
            room = file.bytes - out.tell()
            out.write(block[:room])
            received(min(room, len(block)))
            if room < len(block):
                return


@contextlib.contextmanager
def _hub_errors(repository: str, revision: str | None) -> Iterator[None]:
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise CheckpointError(
            "HF_HUB_OFFLINE is set, so that nothing is downloaded. Unset it for the installation."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"The hub has no revision {revision} of {repository}. `--revision main` takes the "
            "newest."
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"The hub has no repository {repository}, or not for everyone."
        ) from error
    except HfHubHTTPError as error:
        raise CheckpointError(
            f"The hub answers {error.response.status_code} for {repository}. Try again later."
        ) from error
    except ValueError as error:
        raise CheckpointError(
            "The hub's answer cannot be understood. Look at what stands between this machine and "
            "it, such as a proxy that asks for a login."
        ) from error
    except httpx2.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise CheckpointError(
            f"The hub cannot be reached ({reason}). Check the network and the proxy, and try "
            "again: what has come is kept."
        ) from error
