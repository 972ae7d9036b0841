"""Bodies: JSON, of a bounded size, and within a time. The application gets whole ones only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from services.generation.api.guard.hosts import CHANGING
from services.generation.api.guard.scopes import has_body, header_of, headers_of, refuse
from services.generation.api.problems import ProblemError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

JSON = "application/json"
BODY_SECONDS = 15.0
"""From the head of a request to the end of its body."""

_DRAINED_BYTES = 4 * 1024 * 1024
_DRAIN_SECONDS = 2.0


class _ClientLeftError(Exception):
    """There is nobody to answer."""


class Bodies:
    """Reads the body before the application begins, and refuses what it should not read."""

    def __init__(self, app: ASGIApp, limit: int, seconds: float = BODY_SECONDS) -> None:
        """Set the bounds.

        Args:
            app: what is guarded.
            limit: longest body, bytes.
            seconds: that a body may take.
        """
        self._app = app
        self._limit = limit
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or not has_body(scope):
            await self._app(scope, receive, send)
            return
        try:
            self._check_head(scope)
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

    def _check_head(self, scope: Scope) -> None:
        for length in headers_of(scope, "content-length"):
            # Longer than any number that could be meant, and costly to read as one.
            if not length.isascii() or not length.isdigit() or len(length) > 20:
                raise ProblemError("bad-request", "Content-Length is not a number of bytes.")
            if int(length) > self._limit:
                raise self._too_large()
        kind = (header_of(scope, "content-type") or "").partition(";")[0].strip().lower()
        if scope["method"] in CHANGING and kind != JSON:
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
                    raise self._too_large()
                if not message.get("more_body", False):
                    return bytes(body)
        raise ProblemError(
            "bad-request", f"The body did not come within {self._seconds:g} s of its header."
        )

    def _too_large(self) -> ProblemError:
        return ProblemError("too-large", f"A body has at most {self._limit} bytes here.")

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


async def _drain(receive: Receive) -> None:
    taken = 0
    with anyio.move_on_after(_DRAIN_SECONDS):
        while taken < _DRAINED_BYTES:
            message = await receive()
            taken += len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return
