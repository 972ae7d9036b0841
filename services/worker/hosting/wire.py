"""What a worker and an engine's process say to each other: a line of JSON a message.

| from the worker | |
| --- | --- |
| `{"do": "load", "id", "model"}` | load the engine |
| `{"do": "render", "id", "model", "order", "path", "delivery"}` | make a take |
| `{"do": "stop", "id"}` | stop that order |

| from the process | |
| --- | --- |
| `{"event": "progress", "id", "step", "fraction"}` | while an order is at work |
| `{"event": "loaded" / "made" / "cancelled" / "failed", "id", ...}` | once for each order |

The id is the worker's number of the order: several may be at work at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.generation.engine import GenerationParams
from services.library.orders import Order
from services.library.takes import Delivery, Take

if TYPE_CHECKING:
    from services.library.drafts import StrPath

LONGEST_MESSAGE = 1 << 20
"""Bytes; what is longer makes no sense."""

_FILES = ("melody", "continue_from")
_OF_A_TAKE = ("bytes", "sha256", "seconds", "metadata", "measurements")


def encode_message(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


class Lines:
    """Messages out of the pieces that a socket gives."""

    def __init__(self) -> None:
        self._received = b""

    def add(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Give the messages that are whole now.

        Raises:
            ValueError, TypeError: what came is not a line of JSON with an object.
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
    """Return the fields of a take; the worker knows its path."""
    return {name: getattr(take, name) for name in _OF_A_TAKE}


def decode_take(fields: dict[str, Any], path: StrPath) -> Take:
    """Read a take back.

    Raises:
        TypeError: a field is missing or unknown.
    """
    return Take(path=path, **fields)


def _encode_paths(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in fields.items()
    }


def _decode_params(fields: dict[str, Any]) -> GenerationParams:
    files = {name: Path(fields[name]) for name in _FILES if fields.get(name) is not None}
    return GenerationParams(**fields | files)
