"""Bodies: of a bounded size, within a time; JSON goes on whole, audio as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from services.api.guard.hosts import CHANGING
from services.api.guard.scopes import has_body, header_of, headers_of, refuse
from services.api.problems import PREFIX, ProblemError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

JSON = "application/json"
UPLOADS = frozenset({f"{PREFIX}/inputs"})
"""Paths that take an audio file."""

BODY_SECONDS = 15.0
"""From the head of a request to the end of its body."""
UPLOAD_SECONDS = 120.0
"""As much for an audio file."""

_OCTETS = "application/octet-stream"

_DRAINED_BYTES = 4 * 1024 * 1024
_DRAIN_SECONDS = 2.0


class _ClientLeftError(Exception):
    """There is nobody to answer."""


class _Upload:
    """A body that the application reads by itself, up to the bounds."""

    def __init__(self, receive: Receive, send: Send, limit: int, seconds: float) -> None:
        self._receive = receive
        self._send = send
        self._limit = limit
        self._seconds = seconds
        self._end = anyio.current_time() + seconds
        self._taken = 0
        self._is_whole = False

    async def receive(self) -> Message:
        """Give the next piece.

        Raises:
            ProblemError: the body is too long, or comes too slowly.
        """
        with anyio.move_on_at(self._end):
            message = await self._receive()
            self._taken += len(message.get("body", b""))
            self._is_whole = not message.get("more_body", False)
            if self._taken > self._limit:
                raise _too_large(self._limit)
            return message
        raise _too_slow(self._seconds)

    async def send(self, message: Message) -> None:
        """Answer; while more of the body is to come, as `Bodies` does that refuses one."""
        if self._is_whole:
            await self._send(message)
        elif message["type"] == "http.response.start":
            headers = [*message.get("headers", []), (b"connection", b"close")]
            await self._send({**message, "headers": headers})
        elif message.get("more_body", False):
            await self._send(message)
        else:
            await self._send({**message, "more_body": True})
            await _drain(self._receive)
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


class Bodies:
    """Reads the body before the application begins, and refuses what it should not read.

    An audio file is too long for that: the application reads it, and is stopped at the bounds.
    """

    def __init__(
        self,
        app: ASGIApp,
        limit: int,
        upload_limit: int = 0,
        seconds: float = BODY_SECONDS,
        upload_seconds: float = UPLOAD_SECONDS,
    ) -> None:
        """Set the bounds.

        Args:
            app: what is guarded.
            limit: longest body, bytes.
            upload_limit: longest audio file, bytes.
            seconds: that a body may take.
            upload_seconds: that an audio file may take.
        """
        self._app = app
        self._limit = limit
        self._upload_limit = upload_limit
        self._seconds = seconds
        self._upload_seconds = upload_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or not has_body(scope):
            await self._app(scope, receive, send)
            return
        is_upload = scope["method"] == "POST" and scope["path"] in UPLOADS
        try:
            self._check_head(scope, is_upload=is_upload)
            if is_upload:
                upload = _Upload(receive, send, self._upload_limit, self._upload_seconds)
                await self._app(scope, upload.receive, upload.send)
                return
            body = await self._read(receive)
        except _ClientLeftError:
            return
        except ProblemError as error:
            await self._refuse(scope, receive, send, error)
            return
        given = False

        async def receive_body() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, receive_body, send)

    def _check_head(self, scope: Scope, *, is_upload: bool) -> None:
        limit = self._upload_limit if is_upload else self._limit
        for length in headers_of(scope, "content-length"):
            # Longer than any number that could be meant, and costly to read as one.
            if not length.isascii() or not length.isdigit() or len(length) > 20:
                raise ProblemError("bad-request", "Content-Length is not a number of bytes.")
            if int(length) > limit:
                raise _too_large(limit)
        kind = (header_of(scope, "content-type") or "").partition(";")[0].strip().lower()
        if is_upload and not (kind.startswith("audio/") or kind == _OCTETS):
            raise ProblemError(
                "unsupported-media-type",
                f"The body has to be audio/wav, another audio, or {_OCTETS}.",
            )
        if not is_upload and scope["method"] in CHANGING and kind != JSON:
            raise ProblemError("unsupported-media-type", f"The body has to be {JSON}.")

    async def _read(self, receive: Receive) -> bytes:
        body = bytearray()
        with anyio.move_on_after(self._seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _ClientLeftError
                body += message.get("body", b"")
                if len(body) > self._limit:
                    raise _too_large(self._limit)
                if not message.get("more_body", False):
                    return bytes(body)
        raise _too_slow(self._seconds)

    async def _refuse(
        self, scope: Scope, receive: Receive, send: Send, error: ProblemError
    ) -> None:
        """Answer, and take in some of what is still coming before the connection is closed.

        Closed with bytes unread, the system resets it, and the client may never see the answer.
        """
        held: list[Message] = []

        async def send_but_the_end(message: Message) -> None:
            if message["type"] == "http.response.body":
                await send({**message, "more_body": True})
                held.append({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await send(message)

        await refuse(scope, send_but_the_end, error)
        if header_of(scope, "expect") is None and error.kind.name == "too-large":
            await _drain(receive)
        for message in held:
            await send(message)


def _too_large(limit: int) -> ProblemError:
    return ProblemError("too-large", f"A body has at most {limit} bytes here.")


def _too_slow(seconds: float) -> ProblemError:
    return ProblemError("bad-request", f"The body did not come within {seconds:g} s of its header.")


async def _drain(receive: Receive) -> None:
    taken = 0
    with anyio.move_on_after(_DRAIN_SECONDS):
        while taken < _DRAINED_BYTES:
            message = await receive()
            taken += len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return
