"""Files in a bucket that speaks S3: for API and workers on different machines.

Every attempt uploads under a name of its own, `<day>/<id>/<nonce>/<id>.wav`, before its row is
locked, and the row takes that name in the transaction that completes it. So no upload can replace
another, whoever wakes up late; no request is made while a row is locked, which would keep all
writers waiting for the network; and nothing depends on conditional writes, which not every server
has and whose answer a lost connection makes ambiguous.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from dotenv import dotenv_values

from services.audio.inventory import StoredFile, listed_file
from services.errors import OutputError, SettingsError, StoreAwayError
from services.library.drafts import StrPath, clear_drafts
from services.library.store.cache import CACHE_FOLDER, FileCache
from services.library.store.interface import FileStat, Holding, nobody_else

if TYPE_CHECKING:
    from types import ModuleType

    from obstore.store import ClientConfig, RetryConfig, S3Store


PIECE = 4 * 2**20
"""Bytes a request: what a reader holds in memory, and what a lost connection costs."""

_PAGE = 1000
_DIGEST = "sha256"
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_PATIENCE_SECONDS = 60.0
_UPLOAD_SECONDS = 600
_REQUEST_SECONDS = 30
_LOOK_SECONDS = 10.0


class BucketStore:
    """A bucket, or what lies under a prefix in one."""

    def __init__(
        self,
        url: str,
        *,
        scratch: Path,
        cache_bytes: int,
        env_file: Path | None = None,
        patience: float = _PATIENCE_SECONDS,
    ) -> None:
        """Nothing is asked of the bucket yet.

        Args:
            url: `s3://bucket` or `s3://bucket/prefix`.
            scratch: the output folder, for drafts and downloads.
            cache_bytes: what the downloads may take.
            env_file: may set AWS_ variables that the environment does not set.
            patience: seconds for which a server that does not answer is asked again to take an
                upload; somebody who reads is told after 10 at the latest.
        """
        self._url = url.rstrip("/")
        bucket, _, prefix = self._url.removeprefix("s3://").partition("/")
        self._bucket, self._prefix = bucket, prefix
        self._scratch = scratch
        self._patience = patience
        self._env_file = env_file
        self._cache = FileCache(scratch / CACHE_FOLDER, cache_bytes)

    @property
    def where(self) -> str:
        """The address, for people."""
        return self._url

    def shown(self, name: str) -> str:
        """The address of a file."""
        return f"{self._url}/{name}"

    def check(self) -> None:
        """Raise an OutputError when the bucket cannot be listed; a look at one page."""
        with self._errors("listed"):
            next(iter(self._library.list(self._reader, chunk_size=1)), None)

    def final_name(self, name: str, nonce: str) -> str:
        """The attempt's own name; its last part is the row's, as people know it."""
        path = PurePosixPath(name)
        return f"{path.with_suffix('')}/{nonce}/{path.name}"

    def bring(self, draft: StrPath, final_name: str, sha256: str) -> None:
        """Upload a draft in one request, which a server takes whole or not at all.

        One request, not a multipart upload: of a process that is killed no parts stay. The digest
        of the body is signed with it, so that a server refuses one that was damaged on the way.
        """
        key = checked_name(final_name)
        about: Any = {"Content-Type": "audio/wav", _DIGEST: sha256}
        try:
            data = Path(draft).read_bytes()
        except OSError as error:
            raise OutputError(f"Could not read {draft}: {error.strerror}.") from error
        try:
            with self._errors("written"):
                self._library.put(self._writer, key, data, attributes=about, use_multipart=False)
        except FileNotFoundError:
            raise self._no_bucket() from None

    def publish(self, draft: StrPath, final_name: str) -> None:
        """Do nothing: the row's new name is all there is to it."""

    def withdraw(self, final_name: str) -> None:
        """Remove what an attempt brought."""
        self.delete(final_name)

    def clear(self, name: str, holding: Holding = nobody_else) -> None:
        """Remove the uploads of all attempts that were there before the row was looked at.

        One that belongs to a later attempt cannot be among them while the row is the caller's; so
        the row need not stay locked during the requests.
        """
        folder = str(PurePosixPath(checked_name(name)).with_suffix(""))
        uploads = [file.relative for file in self._listed(folder)]
        with holding() as is_ours:
            if not is_ours:
                return
            clear_drafts(self._scratch / name)
        for upload in uploads:
            self.delete(upload)

    def stat(self, name: str) -> FileStat:
        """Look at one file."""
        with self._errors("read", name):
            found = self._library.get(self._reader, checked_name(name), options={"head": True})
        return FileStat(
            size=found.meta["size"],
            etag=(found.meta["e_tag"] or "").strip('"'),
            modified=found.meta["last_modified"],
            sha256=dict(found.attributes).get(_DIGEST),
        )

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        try:
            self.stat(name)
        except FileNotFoundError:
            return False
        return True

    def read_range(self, name: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to, without, `end`, a request a piece.

        A piece is whole before it is given, so that a slow listener holds no connection.
        """
        found = self.stat(name)
        stop = found.size if end is None else min(end, found.size)
        return self._pieces(name, start, stop, found.etag)

    def local_copy(self, name: str, sha256: str | None = None) -> Path:
        """A download, kept for the next time."""
        # What was published is never written again, so that a copy is good for ever.
        known = f"{checked_name(name)}\n{sha256 or self.stat(name).etag}"
        key = hashlib.sha256(known.encode(errors="surrogatepass")).hexdigest()
        suffix = PurePosixPath(name).suffix
        return self._cache.get(f"{key}{suffix}", lambda: self.read_range(name), sha256)

    def list(self) -> Iterator[StoredFile]:
        """Every file under the prefix."""
        return self._listed(None)

    def delete(self, name: str) -> bool:
        """Remove a file; False if there was none."""
        there = self.exists(name)
        if there:
            with suppress(FileNotFoundError), self._errors("written", name):
                self._library.delete(self._writer, checked_name(name))
        return there

    def move(self, name: str, target: str) -> None:
        """Copy a file within the bucket, then remove it."""
        with self._errors("written", name):
            self._library.copy(self._writer, checked_name(name), checked_name(target))
        self.delete(name)

    def prune(self, name: str) -> None:
        """Do nothing: a bucket has no folders."""

    def _listed(self, prefix: str | None) -> Iterator[StoredFile]:
        with self._errors("listed"):
            for page in self._library.list(self._reader, prefix, chunk_size=_PAGE):
                for found in page:
                    changed = found["last_modified"].timestamp()
                    yield listed_file(found["path"], found["size"], changed)

    def _pieces(self, name: str, start: int, stop: int, etag: str) -> Iterator[bytes]:
        key = checked_name(name)
        strong = bool(etag) and not etag.startswith("W/")
        while start < stop:
            part = (start, min(start + PIECE, stop))
            with self._errors("read", name):
                options: Any = (
                    {"range": part, "if_match": f'"{etag}"'} if strong else {"range": part}
                )
                piece = bytes(self._library.get(self._reader, key, options=options).bytes())
            if len(piece) != part[1] - start:
                raise OutputError(f"{self.shown(name)} ends too early. Try again.")
            start = part[1]
            yield piece

    @cached_property
    def _library(self) -> ModuleType:
        try:
            import obstore
            import obstore.store
        except ImportError:
            raise SettingsError(
                "DGX_MUSIC_FILE_STORE is a bucket, and the library for it is not installed: "
                "pip install 'dgx-music[s3]'"
            ) from None
        return obstore

    @cached_property
    def _reader(self) -> S3Store:
        return self._client(_REQUEST_SECONDS, min(self._patience, _LOOK_SECONDS))

    @cached_property
    def _writer(self) -> S3Store:
        return self._client(_UPLOAD_SECONDS, self._patience)

    def _client(self, seconds: float, patience: float) -> S3Store:
        given = _amazon_variables(self._env_file)
        endpoint = next((given[name] for name in _ENDPOINTS if given.get(name)), "")
        client: ClientConfig = {
            "timeout": timedelta(seconds=seconds),
            # Keys do not travel, even then: requests are signed.
            "allow_http": endpoint.startswith("http://"),
        }
        retries: RetryConfig = {"max_retries": 20, "retry_timeout": timedelta(seconds=patience)}
        config: Any = {"endpoint": endpoint} if endpoint else {}
        for name, key in _FROM_FILE.items():
            if name not in os.environ and given.get(name):
                config[key] = given[name]
        made: S3Store = self._library.store.S3Store(
            self._bucket,
            prefix=self._prefix or None,
            config=config,
            client_options=client,
            retry_config=retries,
        )
        return made

    @contextmanager
    def _errors(self, what: str, name: str = "") -> Iterator[None]:
        """Turn what the library says into one sentence; a missing file stays FileNotFoundError."""
        base_error = self._library.exceptions.BaseError
        shown = self.shown(name) if name else self._url
        try:
            yield
        except FileNotFoundError:
            raise FileNotFoundError(f"No such file: {shown}") from None
        except (base_error, PermissionError) as error:
            reason = _reason(error)
            if "NoSuchBucket" in str(error):
                raise self._no_bucket() from error
            raise StoreAwayError(
                f"{shown} cannot be {what}: {reason}. Look at the bucket in DGX_MUSIC_FILE_STORE "
                "and the AWS_* variables: endpoint, region, keys."
            ) from error

    def _no_bucket(self) -> StoreAwayError:
        return StoreAwayError(
            f"There is no bucket {self._bucket!r} for {self._url}. Make it, or name another in "
            "DGX_MUSIC_FILE_STORE."
        )


_FROM_FILE = {
    "AWS_ACCESS_KEY_ID": "access_key_id",
    "AWS_SECRET_ACCESS_KEY": "secret_access_key",
    "AWS_SESSION_TOKEN": "session_token",
    "AWS_REGION": "region",
    "AWS_DEFAULT_REGION": "default_region",
}
"""Variables that may stand in `.env` too, where the library does not look."""


def checked_name(name: str) -> str:
    """Give a name back that leads nowhere else.

    Raises:
        ValueError: it is empty, absolute, or climbs.
    """
    if not name or "\\" in name or "\0" in name or {"", ".", ".."} & set(name.split("/")):
        raise ValueError(f"The name {name!r} leads out of the store.")
    return name


def _amazon_variables(env_file: Path | None) -> dict[str, str]:
    in_file = dotenv_values(env_file) if env_file is not None and env_file.is_file() else {}
    both = {**in_file, **os.environ}
    return {name: value for name, value in both.items() if name.startswith("AWS_") and value}


def _reason(error: Exception) -> str:
    """The last part of the first line, which says what happened without the library's details."""
    line = str(error).partition("\n")[0].rpartition(" - ")[2]
    return line.partition(": <")[0].strip().rstrip(".:")
