"""How events are logged on stderr: a line an event, as text for people or as JSON for programs.

Nothing that a client sends can begin a line of its own or steer a terminal: characters that would
are written as escapes.
"""

from __future__ import annotations

import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TextIO

from pythonjsonlogger.json import JsonFormatter

if TYPE_CHECKING:
    from services.config import Settings

request_id_of_context: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Of the request that is being answered; put on every event that is logged meanwhile."""

LINE = "%(asctime)s %(levelname)s %(message)s"

_STEERING = (
    *range(0x20),
    *range(0x7F, 0xA0),
    *(0x061C, 0x200E, 0x200F, 0x2028, 0x2029),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
)
"""Control characters, line ends, and what turns the direction of writing."""

_ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _STEERING} | {
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
}
_PLACE = re.compile(r"(?:\b([a-z_]+)=)?%(?:%|[-#0 +]*\d*(?:\.\d+)?[a-zA-Z])")
_RESERVED = frozenset({"time", "level", "logger", "message"})


def escaped(text: str) -> str:
    """Give the text with everything that steers a terminal or ends a line as an escape."""
    return text.translate(_ESCAPES)


class TextLines(logging.Formatter):
    """A line an event for people; the lines of a traceback stand indented below it."""

    def __init__(self) -> None:
        super().__init__(LINE)

    def formatTime(  # noqa: N802  (the name is the library's)
        self,
        record: logging.LogRecord,
        datefmt: str | None = None,  # noqa: ARG002
    ) -> str:
        """Give the moment in UTC, RFC 3339."""
        return _moment(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Give the line without what could begin another."""
        return escaped(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Give the traceback; no line of it can be taken for an event."""
        lines = super().formatException(ei).splitlines()
        return "\n".join(f"    {escaped(line)}" for line in lines)


class JsonLines(JsonFormatter):
    """A JSON object an event: time, level, logger, message, and the event's own fields.

    A message as `"started job=%s attempt=%d"` gives its values as fields `job` and `attempt` too:
    they are taken from the arguments, never read out of the text.
    """

    def __init__(self) -> None:
        super().__init__(["asctime", "levelname", "name", "message"], rename_fields=_NAMES)

    def formatTime(  # noqa: N802  (the name is the library's)
        self,
        record: logging.LogRecord,
        datefmt: str | None = None,  # noqa: ARG002
    ) -> str:
        """Give the moment in UTC, RFC 3339."""
        return _moment(record)

    def add_fields(
        self,
        log_data: dict[str, Any],
        record: logging.LogRecord,
        message_dict: dict[str, Any],
    ) -> None:
        """Add what the message names as `field=`, and the request it belongs to."""
        super().add_fields(log_data, record, message_dict)
        for name, value in _fields_of(record).items():
            log_data.setdefault(name, value)


_NAMES = {"asctime": "time", "levelname": "level", "name": "logger", "exc_info": "traceback"}


def _moment(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    if not isinstance(record.args, tuple):
        return {}
    places = [match[1] for match in _PLACE.finditer(record.msg) if not match[0].endswith("%%")]
    if len(places) != len(record.args):
        return {}
    return {
        name: value if isinstance(value, int | float) else str(value)
        for name, value in zip(places, record.args, strict=True)
        if name is not None and name not in _RESERVED
    }


class _WithRequest(logging.Filter):
    """Notes on every event which request it belongs to."""

    def filter(self, record: logging.LogRecord) -> bool:
        request_id = request_id_of_context.get()
        if request_id is not None and not hasattr(record, "request_id"):
            record.request_id = request_id
        return True


def configure_logging(settings: Settings, *, as_json: bool, stream: TextIO | None = None) -> None:
    """Log a line an event on stderr: ours from INFO on unless the settings say, others' warnings.

    Args:
        settings: of the process.
        as_json: JSON lines, not text.
        stream: where to; None is stderr.
    """
    root = logging.getLogger()
    # `--debug` has set this before, and asks for more than the settings do.
    debug = root.level == logging.DEBUG
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if as_json else TextLines())
    handler.addFilter(_WithRequest())
    level = settings.log_level if "log_level" in settings.model_fields_set else "INFO"
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING, handlers=[handler], force=True
    )
    logging.getLogger("services").setLevel(logging.DEBUG if debug else level)


def format_in_use() -> Literal["json", "text"]:
    """How this process logs, for a process that it starts to do the same."""
    handlers = logging.getLogger().handlers
    return "json" if any(isinstance(each.formatter, JsonLines) for each in handlers) else "text"


def wants_json(settings: Settings, stream: TextIO | None) -> bool:
    """Whether a server logs JSON: as the settings say; `auto` does where nobody looks."""
    if settings.log_format == "auto":
        return stream is None or not stream.isatty()
    return settings.log_format == "json"
