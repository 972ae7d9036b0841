"""Limits on the number of connections, and on those that stall or send invalid HTTP.

Uvicorn has none of use: it waits for the rest of a header for ever, buffers a header of any length,
and its limit of connections counts the silent ones, so that they would keep out everybody else.
"""

from __future__ import annotations

import time
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.api.guard.headers import DEFAULTS
from services.api.guard.logs import log_refusal
from services.api.problems import MEDIA_TYPE, RETRY_SECONDS, ProblemError, encode_problem
from services.machine.open_files import count_allowed_connections

if TYPE_CHECKING:
    from asyncio import Transport
    from asyncio.events import TimerHandle

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

HEAD_SECONDS = 10.0
"""Time from the connection, or from the first byte after a pause, to the end of the header."""

HEAD_BYTES = 64 * 1024
"""Longest header."""

FRAME_BYTES = 1024 * 1024
"""Most bytes around a chunked body: chunk sizes and trailer."""

READ_SECONDS = 60.0
"""Time a client may leave an answer unread; asyncio buffers up to 64 KiB of it."""


class BoundedConnection(HttpToolsProtocol):
    """Uvicorn's protocol with limits, for `uvicorn.Config(http=...)`.

    The body has limits of its own, in `BodyLimits`.
    """

    head_seconds = HEAD_SECONDS
    read_seconds = READ_SECONDS

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_answering = False
        self._is_in_head = False
        self._boundaries = 0
        self._frame_bytes = 0
        self._body_bytes = 0
        self._head_bytes = 0
        self._head_timer: TimerHandle | None = None
        self._read_timer: TimerHandle | None = None
        self._silent_since = 0.0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._silent_since = time.monotonic()
        self._await_head()
        if len(self.connections) > count_allowed_connections():
            self._make_room()

    def _make_room(self) -> None:
        """Close the connection that has been without a request for longest; refuse this if none."""
        silent = [
            other
            for other in self.connections
            if isinstance(other, BoundedConnection) and other is not self and other.is_silent
        ]
        if silent:
            min(silent, key=lambda other: other._silent_since).transport.close()
        else:
            self._answer_and_close(
                ProblemError(
                    "unavailable",
                    "The server holds as many connections as it may. Try again in a moment.",
                    headers={"Retry-After": str(RETRY_SECONDS)},
                )
            )

    @property
    def is_silent(self) -> bool:
        """Whether no request is being answered on it."""
        return not self._is_answering and not self.transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_read_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        boundaries = self._boundaries
        self._body_bytes = 0
        super().data_received(data)
        # Data that crosses a boundary belongs to two parts, and is counted for neither.
        if self._boundaries == boundaries:
            self._frame_bytes += len(data) - self._body_bytes
        limit = HEAD_BYTES if self._is_in_head else FRAME_BYTES
        if self._frame_bytes > limit and not self.transport.is_closing():
            part = "header" if self._is_in_head else "framing of the body"
            self.send_400_response(f"The {part} has more than {limit} bytes.")
        # Empty lines before a request begin no header and must not stop the timer.
        if not self._is_answering:
            self._await_head()

    def on_message_begin(self) -> None:
        self._pass_boundary(is_in_head=True)
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value) + len(b": \r\n"))
        super().on_header(name, value)

    def _count_head(self, size: int) -> None:
        # One read may bring a header of several times the limit, with its end.
        if not self._is_in_head:
            # The trailer of a chunked body.
            return
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES:
            # Ends the parsing; uvicorn then calls `send_400_response`.
            raise ValueError

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_headers_complete(self) -> None:
        self._pass_boundary(is_in_head=False)
        self._stop_head_timer()
        self._is_answering = True
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        # The base class starts the next request if it has already arrived.
        super().on_response_complete()
        self._is_answering = not self.cycle.response_complete
        self._silent_since = time.monotonic()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(self.read_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_read_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer invalid HTTP with a problem, and close the connection."""
        if self._head_bytes > HEAD_BYTES:
            msg = f"The header has more than {HEAD_BYTES} bytes."
        cycle: RequestResponseCycle | None = self.cycle
        # Inside another answer, these bytes would be read as part of that answer.
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self._answer_and_close(ProblemError("bad-request", msg))
        self.transport.close()

    def _answer_and_close(self, error: ProblemError) -> None:
        request_id = uuid.uuid4().hex
        body = encode_problem(error, request_id)
        headers = {
            b"content-type": MEDIA_TYPE.encode(),
            b"content-length": str(len(body)).encode(),
            b"cache-control": b"no-store",
            b"connection": b"close",
            b"x-request-id": request_id.encode(),
            **{name.lower().encode(): value.encode() for name, value in error.headers.items()},
            **DEFAULTS,
        }
        lines = b"".join(b"%b: %b\r\n" % pair for pair in headers.items())
        status = HTTPStatus(error.kind.status)
        start = f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
        self.transport.write(start + lines + b"\r\n" + body)
        self.transport.close()
        log_refusal(error.kind.status, len(body), self.client, request_id)

    def _pass_boundary(self, *, is_in_head: bool) -> None:
        self._is_in_head = is_in_head
        self._boundaries += 1
        self._frame_bytes = 0

    def _await_head(self) -> None:
        if self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.head_seconds, self.transport.close)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None
