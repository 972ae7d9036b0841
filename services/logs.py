"""Logging on stderr: one event per line, as text or as JSON.

Text from clients can neither begin a line nor control a terminal: such characters are escaped.
Above DEBUG no event says where files are; the traceback of an unexpected error may.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from pythonjsonlogger.json import JsonFormatter

from services.paths import hide_paths

if TYPE_CHECKING:
    from services.config import Settings

current_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the HTTP request being answered; it is added to every event logged meanwhile."""

_LINE = "%(asctime)s %(levelname)s %(message)s"

_CONTROLS = (
    *range(0x20),
    *range(0x7F, 0xA0),
    *(0x061C, 0x200E, 0x200F, 0x2028, 0x2029),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
)
"""Control characters, line ends, and marks that change the direction of text."""

_ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROLS} | {
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
}
_PLACEHOLDER = re.compile(r"(?:\b([a-z_]+)=)?%(?:%|[-#0 +]*\d*(?:\.\d+)?[a-zA-Z])")
_RESERVED = frozenset({"time", "level", "logger", "message"})


def escape(text: str) -> str:
    return text.translate(_ESCAPES)


class TextLines(logging.Formatter):
    """One line per event; the lines of a traceback are indented below it."""

    def __init__(self, hide: Callable[[str], str] = hide_paths) -> None:
        super().__init__(_LINE)
        self._hide = hide

    def formatTime(  # noqa: N802  (the name is the library's)
        self,
        record: logging.LogRecord,
        datefmt: str | None = None,  # noqa: ARG002
    ) -> str:
        return _format_time(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        line = super().formatMessage(record)
        return escape(line if record.levelno <= logging.DEBUG else self._hide(line))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        lines = super().formatException(ei).splitlines()
        return "\n".join(f"    {escape(line)}" for line in lines)


class JsonLines(JsonFormatter):
    """One JSON object per event: time, level, logger, message, and the event's own fields.

    A message such as `"started job=%s attempt=%d"` adds the fields `job` and `attempt`. Their
    values are the arguments; they are never parsed from the text.
    """

    def __init__(self, hide: Callable[[str], str] = hide_paths) -> None:
        self._hide = hide
        super().__init__(["asctime", "levelname", "name", "message"], rename_fields=_NAMES)

    def formatTime(  # noqa: N802  (the name is the library's)
        self,
        record: logging.LogRecord,
        datefmt: str | None = None,  # noqa: ARG002
    ) -> str:
        return _format_time(record)

    def add_fields(
        self,
        log_data: dict[str, Any],
        record: logging.LogRecord,
        message_dict: dict[str, Any],
    ) -> None:
        super().add_fields(log_data, record, message_dict)
        for name, value in _extract_fields(record).items():
            log_data.setdefault(name, value)
        if record.levelno > logging.DEBUG:
            for name, value in log_data.items():
                if isinstance(value, str) and name != "traceback":
                    log_data[name] = self._hide(value)


_NAMES = {"asctime": "time", "levelname": "level", "name": "logger", "exc_info": "traceback"}


def _format_time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _extract_fields(record: logging.LogRecord) -> dict[str, Any]:
    if not isinstance(record.args, tuple):
        return {}
    names = [match[1] for match in _PLACEHOLDER.finditer(record.msg) if not match[0].endswith("%%")]
    if len(names) != len(record.args):
        return {}
    return {
        name: value if isinstance(value, int | float) else str(value)
        for name, value in zip(names, record.args, strict=True)
        if name is not None and name not in _RESERVED
    }


class _RequestFilter(logging.Filter):
    """Adds the request's id to every event."""

    def filter(self, record: logging.LogRecord) -> bool:
        request_id = current_request_id.get()
        if request_id is not None and not hasattr(record, "request_id"):
            record.request_id = request_id
        return True


def configure_logging(
    level: str,
    *,
    as_json: bool,
    hide: Callable[[str], str] = hide_paths,
    stream: TextIO | None = None,
) -> None:
    """Log our events from a level, and other libraries' from WARNING.

    Args:
        level: a name of the standard library; `--debug` outranks it.
        as_json: JSON lines instead of text.
        hide: takes paths out of a text.
        stream: None is stderr.
    """
    root = logging.getLogger()
    # `--debug` has set this already.
    debug = root.level == logging.DEBUG
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(hide) if as_json else TextLines(hide))
    handler.addFilter(_RequestFilter())
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING, handlers=[handler], force=True
    )
    logging.getLogger("services").setLevel(logging.DEBUG if debug else level)


def find_level(settings: Settings) -> str:
    """Return the level of a server or worker: that of the settings, or INFO if it is unset."""
    return settings.log_level if "log_level" in settings.model_fields_set else "INFO"


def logs_json() -> bool:
    """Return whether this process logs JSON, as the processes that it starts are to do."""
    handlers = logging.getLogger().handlers
    return any(isinstance(each.formatter, JsonLines) for each in handlers)


def wants_json(settings: Settings, stream: TextIO | None) -> bool:
    """Return whether a server logs JSON; with `auto` it does unless `stream` is a terminal."""
    if settings.log_format == "auto":
        return stream is None or not stream.isatty()
    return settings.log_format == "json"
