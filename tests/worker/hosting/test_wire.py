"""Messages between a worker and an engine process."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.engine import SEED_LIMIT, GenerationParams
from services.library.attachments import Attachment
from services.library.orders import Order
from services.library.takes import Delivery, Take
from services.worker.hosting.wire import (
    LONGEST_MESSAGE,
    MessageReader,
    decode_order,
    decode_take,
    encode_message,
    encode_order,
    encode_take,
)

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
PATHS = st.none() | TEXT.filter(bool).map(Path)
PARAMS = st.builds(
    GenerationParams,
    prompt=TEXT,
    duration_seconds=st.floats(0.1, 600),
    seed=st.integers(0, SEED_LIMIT - 1),
    temperature=st.floats(0.1, 2),
    top_k=st.integers(0, 500),
    top_p=st.floats(0, 1),
    cfg_coef=st.floats(1, 10),
    melody=PATHS,
    continue_from=PATHS,
    stems=st.booleans(),
)
ORDERS = st.builds(
    Order,
    generation_id=TEXT,
    model=TEXT,
    created_at=st.datetimes(timezones=st.just(UTC)),
    file_path=TEXT,
    params=PARAMS,
    midi=st.booleans(),
    inputs=st.dictionaries(TEXT, TEXT, max_size=2),
)
DELIVERY = Delivery(
    output_dir=Path("/music"), target_lufs=None, true_peak_dbtp=-1.0, bit_depth="PCM_24"
)


def through_the_socket(message):
    (received,) = MessageReader().feed(encode_message(message))
    return received


@given(ORDERS)
def test_an_order_is_decoded_as_it_was_encoded(order):
    message = through_the_socket(encode_order(order, Path("/music/.dgx-1.part"), DELIVERY))
    assert decode_order(message) == (order, Path("/music/.dgx-1.part"), DELIVERY)


def test_a_take_is_decoded_as_it_was_encoded():
    take = Take(
        path=Path("a"),
        bytes=7,
        sha256="ab",
        seconds=0.5,
        metadata={"notes": ["ä"]},
        measurements={"bpm": 120.0, "key": None},
        attachments=(Attachment("stem", "drums", "b", 9, "cd"),),
    )
    assert decode_take(through_the_socket(encode_take(take)), Path("a")) == take


@pytest.mark.parametrize("fields", [{}, {"bytes": 1}, {"bytes": 1, "more": 2}])
def test_a_take_with_missing_or_unknown_fields_is_refused(fields):
    with pytest.raises(TypeError):
        decode_take(fields, Path("a"))


@given(st.lists(st.dictionaries(TEXT, TEXT, max_size=3), max_size=5), st.integers(1, 40))
def test_messages_are_complete_whatever_the_pieces(messages, size):
    sent = b"".join(map(encode_message, messages))
    reader = MessageReader()
    pieces = [sent[start : start + size] for start in range(0, len(sent), size)]
    assert [message for piece in pieces for message in reader.feed(piece)] == messages


@pytest.mark.parametrize("nonsense", [b"x\n", b"[1]\n", b"3\n", b"\xff\n"])
def test_a_line_that_is_no_object_is_refused(nonsense):
    with pytest.raises((ValueError, TypeError)):
        list(MessageReader().feed(nonsense))


def test_a_message_without_an_end_is_refused():
    reader = MessageReader()
    with pytest.raises(ValueError, match="no end"):
        list(reader.feed(b"x" * (LONGEST_MESSAGE + 1)))


def test_the_time_of_an_order_keeps_its_zone():
    order = Order(
        generation_id="a",
        model="m",
        created_at=datetime(2026, 3, 1, tzinfo=UTC),
        file_path="f",
        params=GenerationParams(prompt="p", duration_seconds=1.0, seed=1),
    )
    decoded, _, _ = decode_order(encode_order(order, "p", DELIVERY))
    assert decoded.created_at.tzinfo is not None
