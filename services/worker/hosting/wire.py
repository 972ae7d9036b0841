"""The messages between a worker and an engine process; each is one line of JSON.

| from the worker | |
| --- | --- |
| `{"do": "load", "id", "model"}` | load the engine |
| `{"do": "render", "id", "model", "order", "path", "delivery"}` | make a take |
| `{"do": "stop", "id"}` | stop that order |

| from the process | |
| --- | --- |
| `{"event": "progress", "id", "step", "fraction"}` | while an order runs |
| `{"event": "loaded" / "made" / "cancelled" / "failed", "id", ...}` | once for each order |

The worker numbers its orders; `id` is that number, because several orders may run at once. What the
process is started with is a `Launch`, which is JSON too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.generation.engine import EngineSettings, GenerationParams
from services.library.attachments import Attachment
from services.library.input_names import FIELDS
from services.library.orders import Order
from services.library.takes import Delivery, Take

if TYPE_CHECKING:
    from services.library.drafts import StrPath

LONGEST_MESSAGE = 1 << 20
"""Bytes; a longer message is invalid."""

_TAKE_FIELDS = ("bytes", "sha256", "seconds", "metadata", "measurements")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What an engine process is started with."""

    registry: str
    """"module:function", which returns the engines when it is called with the settings."""
    settings: EngineSettings
    seats: int
    """Orders that it takes at once."""
    log_level: str
    logs_json: bool

    def encode(self) -> str:
        fields = asdict(self)
        return json.dumps(fields | {"settings": _encode_paths(fields["settings"])})

    @classmethod
    def decode(cls, text: str) -> Launch:
        fields = json.loads(text)
        settings = fields["settings"]
        settings |= {"models_dir": Path(settings["models_dir"])}
        return cls(**fields | {"settings": EngineSettings(**settings)})


def encode_message(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


class MessageReader:
    """Splits the data received from a socket into messages."""

    def __init__(self) -> None:
        self._received = b""

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Yield the messages that are complete with this data.

        Raises:
            ValueError, TypeError: a line is no JSON object, or has no end.
        """
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if not isinstance(message, dict):
                raise TypeError("not an object")
            yield message
        if len(self._received) > LONGEST_MESSAGE:
            raise ValueError("no end of line")


def encode_order(order: Order, path: StrPath, delivery: Delivery) -> dict[str, Any]:
    """Return the fields of a `render` message."""
    fields = asdict(order)
    return {
        "order": fields
        | {"created_at": order.created_at.isoformat(), "params": _encode_paths(fields["params"])},
        "path": str(path),
        "delivery": _encode_paths(asdict(delivery)),
    }


def decode_order(message: dict[str, Any]) -> tuple[Order, Path, Delivery]:
    order, delivery = message["order"], message["delivery"]
    decoded = Order(
        **order
        | {
            "created_at": datetime.fromisoformat(order["created_at"]),
            "params": _decode_params(order["params"]),
        }
    )
    settings = delivery | {"output_dir": Path(delivery["output_dir"])}
    return decoded, Path(message["path"]), Delivery(**settings)


def encode_take(take: Take) -> dict[str, Any]:
    """Return the fields of a take but its path, which the worker knows."""
    fields = {name: getattr(take, name) for name in _TAKE_FIELDS}
    return fields | {"attachments": [asdict(one) for one in take.attachments]}


def decode_take(fields: dict[str, Any], path: StrPath) -> Take:
    """Build a take from the fields of a message.

    Raises:
        TypeError: a field is missing or unknown.
    """
    take = Take(path=path, **fields)
    attachments: Any = take.attachments
    return replace(take, attachments=tuple(Attachment(**one) for one in attachments))


def _encode_paths(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in fields.items()
    }


def _decode_params(fields: dict[str, Any]) -> GenerationParams:
    files = {name: Path(fields[name]) for name in FIELDS if fields.get(name) is not None}
    return GenerationParams(**fields | files)
