"""Connections that do not come on, or bring what is no request.

Uvicorn would keep one with half a header open for ever, and all of a header of any length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.api.guard.headers import DEFAULTS
from services.api.problems import MEDIA_TYPE, ProblemError, body_of

if TYPE_CHECKING:
    from asyncio import Transport
    from asyncio.events import TimerHandle

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

HEAD_SECONDS = 10.0
"""From the connection, or the first byte after a pause, to the end of the header."""

HEAD_BYTES = 64 * 1024
"""Longest header, give or take what one reading of the socket brings."""

FRAME_BYTES = 1024 * 1024
"""What may stand around a body that comes in chunks: their sizes, and the trailer."""

READ_SECONDS = 60.0
"""That a client may leave what it was sent unread; there is room for 64 KiB on the way."""


class BoundedConnection(HttpToolsProtocol):
    """As uvicorn's own; for `uvicorn.Config(http=...)`. The time of a body is with `Bodies`."""

    head_seconds = HEAD_SECONDS
    read_seconds = READ_SECONDS

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_answering = False
        self._is_in_head = False
        self._boundaries = 0
        self._frame_bytes = 0
        self._body_bytes = 0
        self._head_timer: TimerHandle | None = None
        self._read_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Begin to wait for a header."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """End all waiting."""
        self._stop_head_timer()
        self._stop_read_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of no request, as empty lines before one, win no time."""
        boundaries = self._boundaries
        self._body_bytes = 0
        super().data_received(data)
        # Only what is of one header, or of one body's frame, as a whole is counted.
        if self._boundaries == boundaries:
            self._frame_bytes += len(data) - self._body_bytes
        limit = HEAD_BYTES if self._is_in_head else FRAME_BYTES
        if self._frame_bytes > limit and not self.transport.is_closing():
            self.send_400_response(f"What stands around a body has at most {limit} bytes here.")
        if not self._is_answering:
            self._await_head()

    def on_message_begin(self) -> None:
        """Begin a header."""
        self._pass_boundary(is_in_head=True)
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """Begin the request."""
        self._pass_boundary(is_in_head=False)
        self._stop_head_timer()
        self._is_answering = True
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request, which may have come already."""
        super().on_response_complete()
        self._is_answering = not self.cycle.response_complete

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        if self._read_timer is None:
            self._read_timer = self.loop.call_later(self.read_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads."""
        self._stop_read_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Say what was no request, and end the connection."""
        cycle: RequestResponseCycle | None = self.cycle
        # Within another answer it would be taken for a part of that.
        if cycle is None or cycle.response_complete or not cycle.response_started:
            error = ProblemError("bad-request", msg)
            body = body_of(error, None)
            headers = {
                b"content-type": MEDIA_TYPE.encode(),
                b"content-length": str(len(body)).encode(),
                b"cache-control": b"no-store",
                b"connection": b"close",
                **DEFAULTS,
            }
            lines = [b"%b: %b\r\n" % pair for pair in headers.items()]
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\n%b\r\n%b" % (b"".join(lines), body))
        self.transport.close()

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
