"""Connections that do not come on: uvicorn would keep one with half a header open for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from asyncio import Transport
    from asyncio.events import TimerHandle

HEAD_SECONDS = 10.0
"""From the connection, or the first byte after a pause, to the end of the header."""

READ_SECONDS = 60.0
"""That a client may leave what it was sent unread; there is room for 64 KiB on the way."""


class BoundedConnection(HttpToolsProtocol):
    """As uvicorn's own; for `uvicorn.Config(http=...)`. The time of a body is with `Bodies`."""

    head_seconds = HEAD_SECONDS
    read_seconds = READ_SECONDS

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_answering = False
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
        super().data_received(data)
        if not self._is_answering:
            self._await_head()

    def on_headers_complete(self) -> None:
        """Begin the request."""
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
