"""What a worker and an engine's process say to each other: a line of JSON a message.

| from the worker | |
| --- | --- |
| `{"do": "load", "id", "model"}` | load the engine |
| `{"do": "render", "id", "model", "jobs", "delivery"}` | make takes |
| `{"do": "stop", "id"}` | stop that order |

| from the process | |
| --- | --- |
| `{"event": "progress", "id", "step", "fraction"}` | while an order is at work |
| `{"event": "loaded" / "made" / "cancelled" / "failed", "id", ...}` | once for each order |

The id is the worker's number of the order: several may be at work at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from services.generation.engine import GenerationParams
from services.library.takes import Delivery, Order, Take

LONGEST_MESSAGE = 1 << 20
"""Bytes; what is longer makes no sense."""

_FILES = ("melody", "continue_from")
_OF_A_TAKE = ("bytes", "sha256", "seconds", "metadata")


def written(message: dict[str, Any]) -> bytes:
    """Give the line of a message."""
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


def written_orders(orders: Sequence[Order], delivery: Delivery) -> dict[str, Any]:
    """Give the fields of a message that has orders made."""
    jobs = [
        {
            "generation_id": order.generation_id,
            "created_at": order.created_at.isoformat(),
            "params": _plain(asdict(order.params)),
            "path": str(order.path),
        }
        for order in orders
    ]
    return {"jobs": jobs, "delivery": _plain(asdict(delivery))}


def read_orders(message: dict[str, Any]) -> tuple[list[Order], Delivery]:
    """Read them back."""
    orders = [
        Order(
            generation_id=job["generation_id"],
            created_at=datetime.fromisoformat(job["created_at"]),
            params=_read_params(job["params"]),
            path=Path(job["path"]),
        )
        for job in message["jobs"]
    ]
    delivery = message["delivery"]
    return orders, Delivery(**delivery | {"output_dir": Path(delivery["output_dir"])})


def written_takes(takes: Sequence[Take]) -> list[dict[str, Any]]:
    """Give what is said of takes; where they are the worker knows."""
    return [{name: getattr(take, name) for name in _OF_A_TAKE} for take in takes]


def read_takes(told: Sequence[dict[str, Any]], orders: Sequence[Order]) -> list[Take]:
    """Read them back.

    Raises:
        TypeError, ValueError: there is not one for each order, or it is not all there.
    """
    return [Take(path=order.path, **take) for order, take in zip(orders, told, strict=True)]


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in fields.items()
    }


def _read_params(fields: dict[str, Any]) -> GenerationParams:
    files = {name: Path(fields[name]) for name in _FILES if fields.get(name) is not None}
    return GenerationParams(**fields | files)
