"""Limits on the size, time and type of request bodies; JSON is buffered, audio is streamed."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio

from services.api.guard.hosts import WRITE_METHODS
from services.api.guard.scopes import get_header, get_headers, has_body, refuse
from services.api.problems import FieldProblem, ProblemError
from services.api.root_path import PREFIX

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

JSON = "application/json"
UPLOADS = frozenset({f"{PREFIX}/inputs"})
"""Paths that take an audio file."""

BODY_SECONDS = 15.0
"""Longest time from the header of a request to the end of its body."""
UPLOAD_SECONDS = 120.0
"""The same for an audio file."""

_OCTETS = "application/octet-stream"

_DRAINED_BYTES = 4 * 1024 * 1024
_DRAIN_SECONDS = 2.0


class _ClientLeftError(Exception):
    """The client disconnected within the body."""


class _Upload:
    """A body that the application reads itself, within the limits."""

    def __init__(self, receive: Receive, send: Send, limit: int, seconds: float) -> None:
        self._receive = receive
        self._send = send
        self._limit = limit
        self._seconds = seconds
        self._end = anyio.current_time() + seconds
        self._received = 0
        self._is_whole = False

    async def receive(self) -> Message:
        """Return the next message.

        Raises:
            ProblemError: the body is too long or too slow.
        """
        with anyio.move_on_at(self._end):
            message = await self._receive()
            self._received += len(message.get("body", b""))
            self._is_whole = not message.get("more_body", False)
            if self._received > self._limit:
                raise _too_large(self._limit)
            return message
        raise _too_slow(self._seconds)

    async def send(self, message: Message) -> None:
        """Send the answer; if the body was not read to its end, drain it and close."""
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


class BodyLimits:
    """Reads the body before it calls the application, and refuses a body outside the limits.

    An audio file is too long to buffer: the application reads it, up to the limits.
    """

    def __init__(
        self,
        app: ASGIApp,
        limit: int,
        upload_limit: int = 0,
        seconds: float = BODY_SECONDS,
        upload_seconds: float = UPLOAD_SECONDS,
    ) -> None:
        """Wrap an application.

        Args:
            app: the application.
            limit: longest body, bytes.
            upload_limit: longest audio file, bytes.
            seconds: time limit of a body.
            upload_seconds: time limit of an audio file.
        """
        self._app = app
        self._limit = limit
        self._upload_limit = upload_limit
        self._seconds = seconds
        self._upload_seconds = upload_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
            if scope["method"] in WRITE_METHODS:
                _require_json(body)
        except _ClientLeftError:
            return
        except ProblemError as error:
            await self._refuse(scope, receive, send, error)
            return
        is_delivered = False

        async def receive_body() -> Message:
            nonlocal is_delivered
            if is_delivered:
                return await receive()
            is_delivered = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, receive_body, send)

    def _check_head(self, scope: Scope, *, is_upload: bool) -> None:
        limit = self._upload_limit if is_upload else self._limit
        for length in get_headers(scope, "content-length"):
            # No real length has over 20 digits, and `int` takes long for very many digits.
            if not length.isascii() or not length.isdigit() or len(length) > 20:
                raise ProblemError("bad-request", "Content-Length is not a number of bytes.")
            if int(length) > limit:
                raise _too_large(limit)
        kind = (get_header(scope, "content-type") or "").partition(";")[0].strip().lower()
        if is_upload and not (kind.startswith("audio/") or kind == _OCTETS):
            raise ProblemError(
                "unsupported-media-type",
                f"Send Content-Type: audio/wav, another audio type, or {_OCTETS}.",
            )
        if not is_upload and scope["method"] in WRITE_METHODS and kind != JSON:
            raise ProblemError("unsupported-media-type", f"Send Content-Type: {JSON}.")

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
        # A connection closed with unread bytes is reset, and the client may lose the answer. So the
        # end of the answer, after which the connection closes, waits for some of the body.
        last: list[Message] = []

        async def send_all_but_the_end(message: Message) -> None:
            if message["type"] == "http.response.body":
                await send({**message, "more_body": True})
                last.append({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await send(message)

        await refuse(scope, send_all_but_the_end, error)
        if get_header(scope, "expect") is None and error.kind.name == "too-large":
            await _drain(receive)
        for message in last:
            await send(message)


def _require_json(body: bytes) -> None:
    """Refuse what is not JSON, and what gives one name two values; an empty body is let through."""
    if not body:
        return
    try:
        json.loads(
            body.decode(),
            object_pairs_hook=_require_different_names,
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError as error:
        raise _not_json("it is not UTF-8") from error
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise _not_json(reason) from error
    except RecursionError as error:
        raise _not_json("it is nested too deeply") from error
    except ValueError as error:
        # Too many digits.
        raise _not_json("a number in it is too long") from error


def _require_different_names(pairs: list[tuple[str, Any]]) -> None:
    """Programs disagree on which of two values counts."""
    if len(dict(pairs)) == len(pairs):
        return
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise _invalid(
                f"The body has the name {name[:60]!r} {count} times in one object. Send it once."
            )


def _refuse_constant(name: str) -> None:
    raise _not_json(f"{name} is no number of JSON")


def _not_json(reason: str) -> ProblemError:
    return _invalid(f"The body is not valid JSON: {reason}. Send one JSON object.")


def _invalid(detail: str) -> ProblemError:
    return ProblemError("invalid-request", detail, errors=[FieldProblem(detail=detail, pointer="")])


def _too_large(limit: int) -> ProblemError:
    return ProblemError("too-large", f"The body may have at most {limit} bytes.")


def _too_slow(seconds: float) -> ProblemError:
    return ProblemError(
        "bad-request", f"The body did not arrive within {seconds:g} s of its header."
    )


async def _drain(receive: Receive) -> None:
    count = 0
    with anyio.move_on_after(_DRAIN_SECONDS):
        while count < _DRAINED_BYTES:
            message = await receive()
            count += len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return
