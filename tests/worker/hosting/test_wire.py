"""Messages between a worker and an engine's process."""

import json
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

from services.generation.engine import GenerationParams
from services.library.takes import Delivery, Order
from services.worker.hosting.wire import read_orders, written_orders


def test_every_parameter_of_a_request_reaches_the_engine_process() -> None:
    values = {
        "prompt": "a beat", "duration_seconds": 2.0, "seed": 5, "temperature": 0.5, "top_k": 3,
        "top_p": 0.25, "cfg_coef": 2.0, "melody": Path("/in/tune.wav"),
        "continue_from": Path("/in/start.wav"), "stems": True,
    }  # fmt: skip
    assert set(values) == {field.name for field in fields(GenerationParams)}
    order = Order(
        generation_id="an-id",
        created_at=datetime(2026, 3, 1, tzinfo=UTC),
        params=GenerationParams(**values),
        path=Path("/out/take.wav"),
    )
    delivery = Delivery(
        output_dir=Path("/out"), target_lufs=-16.0, true_peak_dbtp=-1.0, bit_depth="PCM_16"
    )
    sent = json.loads(json.dumps(written_orders([order], delivery)))
    assert read_orders(sent) == ([order], delivery)
