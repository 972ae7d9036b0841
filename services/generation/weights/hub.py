"""The Hugging Face hub for the installer: lists a repository and downloads its files.

Addresses, headers, session and environment variables (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE) are
those of huggingface_hub. The download is our own: theirs cannot resume one of another process.
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
"""Delays before the retries of a download that received nothing."""

PARTIAL_SUFFIX = ".partial"

_TIMEOUT_SECONDS = 30.0

Received = Callable[[int], None]
"""Called with the number of received bytes; a negative one if they must be received again."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository, as the hub describes it."""

    name: str
    bytes: int
    sha256: str | None
    """Digest of the content, for files in large file storage."""
    git_sha1: str | None
    """Digest of git's blob header and the content, for other files."""

    def matches(self, path: Path) -> bool:
        """Whether a file has this size and digest; False if it does not exist."""
        try:
            if path.stat().st_size != self.bytes:
                return False
            if self.sha256 is not None:
                return digest(path) == self.sha256
            if self.git_sha1 is not None:
                content = path.read_bytes()
                header = b"blob %d\0" % len(content)
                # Git's object names are SHA-1; this is no protection against forgery.
                found = hashlib.sha1(header + content, usedforsecurity=False)
                return found.hexdigest() == self.git_sha1
        except OSError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a repository at one commit, by name."""

    repository: str
    revision: str
    """The full commit."""
    files: dict[str, HubFile]


class Hub:
    def __init__(
        self, endpoint: str | None = None, waits_seconds: Sequence[float] = WAITS_SECONDS
    ) -> None:
        """Use an endpoint, or for None that of HF_ENDPOINT or the public hub."""
        self._endpoint = endpoint
        self._waits = waits_seconds

    def list_files(self, repository: str, revision: str | None) -> Listing:
        """List the files of a repository at a commit, a branch, or for None the newest commit.

        Raises:
            CheckpointError: the repository or commit does not exist, or the hub is unreachable.
        """
        with _hub_errors(repository, revision):
            found = HfApi(endpoint=self._endpoint).model_info(
                repository, revision=revision, files_metadata=True, timeout=_TIMEOUT_SECONDS
            )
        if found.sha is None or not found.siblings:
            raise CheckpointError(f"The hub lists no files of {repository}. Try again later.")
        files = {one.rfilename: _describe(one) for one in found.siblings}
        return Listing(repository, found.sha, files)

    def download(self, listing: Listing, file: HubFile, path: Path, received: Received) -> None:
        """Download a file to `path`, and resume an earlier download.

        The file has another name until it is complete and its digest is right.

        Raises:
            CheckpointError: the hub is unreachable, or sends different content.
            OSError: the file cannot be written.
        """
        partial = path.with_name(path.name + PARTIAL_SUFFIX)
        url = hf_hub_url(
            listing.repository, file.name, revision=listing.revision, endpoint=self._endpoint
        )
        is_resumed = partial.exists()
        with _hub_errors(listing.repository, listing.revision):
            _fetch(url, partial, file, received, self._waits)
            if is_resumed and not file.matches(partial):
                # A crash may have damaged the first part: download all of it.
                received(-partial.stat().st_size)
                partial.unlink()
                _fetch(url, partial, file, received, self._waits)
        if not file.matches(partial):
            partial.unlink()
            raise CheckpointError(
                f"The hub sent {file.name} of {listing.repository} with another content than it "
                "lists. Try again; if that does not help, check the proxy of this network."
            )
        partial.rename(path)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _describe(one: RepoSibling) -> HubFile:
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
                    f"The hub sent only {out.tell():,} of {file.bytes:,} bytes of {file.name}. Try "
                    "again later."
                )
            time.sleep(wait)


def _fetch_rest(url: str, out: BinaryIO, file: HubFile, received: Received) -> None:
    start = out.tell()
    # A compressed transfer could not be resumed.
    headers = {"Accept-Encoding": "identity"}
    if token := get_token():
        headers["Authorization"] = f"Bearer {token}"
    if start:
        headers["Range"] = f"bytes={start}-"
    with get_session().stream(
        "GET", url, headers=headers, timeout=_TIMEOUT_SECONDS, follow_redirects=True
    ) as response:
        hf_raise_for_status(response)
        if start and response.status_code != httpx2.codes.PARTIAL_CONTENT:
            received(-start)
            out.seek(0)
            out.truncate()
        # Blocks of any size: with a fixed size, buffered bytes are lost if the connection breaks.
        for block in response.iter_raw():
            missing = file.bytes - out.tell()
            out.write(block[:missing])
            received(min(missing, len(block)))
            if missing < len(block):
                return


@contextlib.contextmanager
def _hub_errors(repository: str, revision: str | None) -> Iterator[None]:
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise CheckpointError(
            "Nothing is downloaded while HF_HUB_OFFLINE is set. Unset it to install models."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"The hub has no revision {revision} of {repository}. `--revision main` installs the "
            "newest."
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"The hub has no repository {repository}, or it is private."
        ) from error
    except HfHubHTTPError as error:
        raise CheckpointError(
            f"The hub answers {error.response.status_code} for {repository}. Try again later."
        ) from error
    except ValueError as error:
        raise CheckpointError(
            "The hub's answer cannot be read. Check whether the proxy of this network asks for a "
            "login."
        ) from error
    except httpx2.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise CheckpointError(
            f"The hub cannot be reached ({reason}). Check the network and the proxy, and try "
            "again: the download resumes."
        ) from error
