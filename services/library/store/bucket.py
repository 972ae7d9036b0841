"""A store in an S3 bucket: for an API and workers on different machines.

Every attempt uploads to a name of its own, `<day>/<id>/<nonce>/<id>.wav`, before its row is
locked. The transaction that completes the row records that name. Therefore:

- No upload can replace another, even one of a worker that was frozen for long.
- No writer waits for the network: no row is locked during a request.
- Conditional writes are not needed. Some servers lack them, and a lost connection would leave
  their result unknown.
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
from services.library.drafts import StrPath, remove_drafts
from services.library.store.cache import CACHE_FOLDER, FileCache
from services.library.store.interface import FileStat, JobLock, no_lock_needed

if TYPE_CHECKING:
    from types import ModuleType

    from obstore.store import ClientConfig, RetryConfig, S3Store


PIECE = 4 * 2**20
"""Bytes of a read request: what a reader holds in memory and repeats after a lost connection."""

_PAGE = 1000
_DIGEST = "sha256"
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_UPLOAD_RETRY_SECONDS = 60.0
_READ_RETRY_SECONDS = 10.0
_UPLOAD_TIMEOUT_SECONDS = 600
_REQUEST_TIMEOUT_SECONDS = 30


class BucketStore:
    """A bucket, or a prefix in one."""

    def __init__(
        self,
        url: str,
        *,
        scratch: Path,
        cache_bytes: int,
        env_file: Path | None = None,
        patience: float = _UPLOAD_RETRY_SECONDS,
    ) -> None:
        """Set up the store without contacting the server.

        Args:
            url: `s3://bucket` or `s3://bucket/prefix`.
            scratch: the output folder, for drafts and downloads.
            cache_bytes: size limit of the downloads.
            env_file: may set AWS_ variables that the environment does not set.
            patience: seconds for which a failed upload is retried; reads are retried for at most
                10 seconds of them.
        """
        self._url = url.rstrip("/")
        bucket, _, prefix = self._url.removeprefix("s3://").partition("/")
        self._bucket, self._prefix = bucket, prefix
        self._scratch = scratch
        self._patience = patience
        self._env_file = env_file
        self._cache = FileCache(scratch / CACHE_FOLDER, cache_bytes)

    @property
    def location(self) -> str:
        return self._url

    def display_path(self, name: str) -> str:
        return f"{self._url}/{name}"

    def check(self) -> None:
        """Raise an OutputError when one page of the bucket cannot be listed."""
        with self._errors("listed"):
            next(iter(self._library.list(self._reader, chunk_size=1)), None)

    def final_name(self, name: str, nonce: str) -> str:
        path = PurePosixPath(name)
        return f"{path.with_suffix('')}/{nonce}/{path.name}"

    def upload(self, draft: StrPath, final_name: str, sha256: str) -> None:
        # A single request, so that a killed process leaves no parts of a multipart upload. Its
        # signature covers the body's digest: the server refuses data damaged on the way.
        key = check_name(final_name)
        content_type = "audio/midi" if key.endswith(".mid") else "audio/wav"
        attributes: Any = {"Content-Type": content_type, _DIGEST: sha256}
        try:
            data = Path(draft).read_bytes()
        except OSError as error:
            raise OutputError(f"Could not read {draft}: {error.strerror}.") from error
        try:
            with self._errors("written"):
                self._library.put(
                    self._writer, key, data, attributes=attributes, use_multipart=False
                )
        except FileNotFoundError:
            raise self._no_bucket() from None

    def publish(self, draft: StrPath, final_name: str) -> None:
        """Do nothing: the row gets the name of the upload."""

    def delete_upload(self, final_name: str) -> None:
        self.delete(final_name)

    def remove_leftovers(self, name: str, lock: JobLock = no_lock_needed) -> None:
        # The list is made before the caller is known to hold the job, so it has no upload of a
        # later attempt, and the row need not stay locked during the deletions.
        folder = str(PurePosixPath(check_name(name)).with_suffix(""))
        uploads = [file.relative for file in self._listed(folder)]
        with lock() as holds_job:
            if not holds_job:
                return
            remove_drafts(self._scratch / name)
        for upload in uploads:
            self.delete(upload)

    def stat(self, name: str) -> FileStat:
        with self._errors("read", name):
            found = self._library.get(self._reader, check_name(name), options={"head": True})
        return FileStat(
            size=found.meta["size"],
            etag=(found.meta["e_tag"] or "").strip('"'),
            modified=found.meta["last_modified"],
            sha256=dict(found.attributes).get(_DIGEST),
        )

    def exists(self, name: str) -> bool:
        try:
            self.stat(name)
        except FileNotFoundError:
            return False
        return True

    def read_range(self, name: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        # Each piece is read whole before it is yielded: a slow reader holds no connection.
        found = self.stat(name)
        stop = found.size if end is None else min(end, found.size)
        return self._pieces(name, start, stop, found.etag)

    def local_copy(self, name: str, sha256: str | None = None) -> Path:
        # A published file never changes, so its copy stays valid.
        known = f"{check_name(name)}\n{sha256 or self.stat(name).etag}"
        key = hashlib.sha256(known.encode(errors="surrogatepass")).hexdigest()
        suffix = PurePosixPath(name).suffix
        return self._cache.get(f"{key}{suffix}", lambda: self.read_range(name), sha256)

    def list(self) -> Iterator[StoredFile]:
        return self._listed(None)

    def delete(self, name: str) -> bool:
        is_there = self.exists(name)
        if is_there:
            with suppress(FileNotFoundError), self._errors("written", name):
                self._library.delete(self._writer, check_name(name))
        return is_there

    def move(self, name: str, target: str) -> None:
        with self._errors("written", name):
            self._library.copy(self._writer, check_name(name), check_name(target))
        self.delete(name)

    def prune_folders(self, name: str) -> None:
        """Do nothing: a bucket has no folders."""

    def _listed(self, prefix: str | None) -> Iterator[StoredFile]:
        with self._errors("listed"):
            for page in self._library.list(self._reader, prefix, chunk_size=_PAGE):
                for found in page:
                    changed = found["last_modified"].timestamp()
                    yield listed_file(found["path"], found["size"], changed)

    def _pieces(self, name: str, start: int, stop: int, etag: str) -> Iterator[bytes]:
        key = check_name(name)
        is_strong_etag = bool(etag) and not etag.startswith("W/")
        while start < stop:
            part = (start, min(start + PIECE, stop))
            with self._errors("read", name):
                options: Any = (
                    {"range": part, "if_match": f'"{etag}"'} if is_strong_etag else {"range": part}
                )
                piece = bytes(self._library.get(self._reader, key, options=options).bytes())
            if len(piece) != part[1] - start:
                raise OutputError(f"{self.display_path(name)} ends too early. Try again.")
            start = part[1]
            yield piece

    @cached_property
    def _library(self) -> ModuleType:
        try:
            import obstore
            import obstore.store
        except ImportError:
            raise SettingsError(
                "DGX_MUSIC_FILE_STORE is a bucket, but the library for it is not installed: "
                "pip install 'dgx-music[s3]'"
            ) from None
        return obstore

    @cached_property
    def _reader(self) -> S3Store:
        return self._client(_REQUEST_TIMEOUT_SECONDS, min(self._patience, _READ_RETRY_SECONDS))

    @cached_property
    def _writer(self) -> S3Store:
        return self._client(_UPLOAD_TIMEOUT_SECONDS, self._patience)

    def _client(self, timeout: float, patience: float) -> S3Store:
        variables = _aws_variables(self._env_file)
        endpoint = next((variables[name] for name in _ENDPOINTS if variables.get(name)), "")
        client: ClientConfig = {
            "timeout": timedelta(seconds=timeout),
            # Without TLS the keys stay secret all the same: requests are signed.
            "allow_http": endpoint.startswith("http://"),
        }
        retries: RetryConfig = {"max_retries": 20, "retry_timeout": timedelta(seconds=patience)}
        config: Any = {"endpoint": endpoint} if endpoint else {}
        for name, key in _FROM_FILE.items():
            if name not in os.environ and variables.get(name):
                config[key] = variables[name]
        s3_store: S3Store = self._library.store.S3Store(
            self._bucket,
            prefix=self._prefix or None,
            config=config,
            client_options=client,
            retry_config=retries,
        )
        return s3_store

    @contextmanager
    def _errors(self, action: str, name: str = "") -> Iterator[None]:
        """Turn the library's errors into ours; a missing file stays FileNotFoundError.

        Args:
            action: what failed: listed, read or written.
            name: of the file; empty for the bucket.
        """
        base_error = self._library.exceptions.BaseError
        shown = self.display_path(name) if name else self._url
        try:
            yield
        except FileNotFoundError:
            raise FileNotFoundError(f"No such file: {shown}") from None
        except (base_error, PermissionError) as error:
            reason = _reason(error)
            if "NoSuchBucket" in str(error):
                raise self._no_bucket() from error
            raise StoreAwayError(
                f"{shown} cannot be {action}: {reason}. Check the bucket in DGX_MUSIC_FILE_STORE "
                "and the AWS_* variables: endpoint, region, keys."
            ) from error

    def _no_bucket(self) -> StoreAwayError:
        return StoreAwayError(
            f"There is no bucket {self._bucket!r} for {self._url}. Create it, or set "
            "DGX_MUSIC_FILE_STORE to another one."
        )


_FROM_FILE = {
    "AWS_ACCESS_KEY_ID": "access_key_id",
    "AWS_SECRET_ACCESS_KEY": "secret_access_key",
    "AWS_SESSION_TOKEN": "session_token",
    "AWS_REGION": "region",
    "AWS_DEFAULT_REGION": "default_region",
}
"""Variables that are read from `.env` too, which the library does not read."""


def check_name(name: str) -> str:
    """Return the name unchanged.

    Raises:
        ValueError: it is empty, absolute, or has a `..`.
    """
    if not name or "\\" in name or "\0" in name or {"", ".", ".."} & set(name.split("/")):
        raise ValueError(f"The name {name!r} leads out of the store.")
    return name


def _aws_variables(env_file: Path | None) -> dict[str, str]:
    in_file = dotenv_values(env_file) if env_file is not None and env_file.is_file() else {}
    both = {**in_file, **os.environ}
    return {name: value for name, value in both.items() if name.startswith("AWS_") and value}


def _reason(error: Exception) -> str:
    # The last part of the first line is the cause; the rest is the library's own context.
    line = str(error).partition("\n")[0].rpartition(" - ")[2]
    return line.partition(": <")[0].strip().rstrip(".:")
