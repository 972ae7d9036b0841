from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import EngineUnavailableError
from services.generation.musicgen.catalogue import MODELS
from services.generation.musicgen.decoders.memory_plan import (
    BUCKETS,
    DEVICE_RESERVE_BYTES,
    HOST_RESERVE_BYTES,
    DeviceMemory,
    bucket_for,
    plan_slots,
    slot_bytes,
    weight_bytes,
)

GIB = 2**30
SMALL = MODELS["musicgen-small"].geometry
MEDIUM = replace(SMALL, layers=48, hidden=1536, heads=24, ffn=6144)


def _fit(free, geometry=SMALL, shared=False, most=64):
    memory = DeviceMemory(free=free, is_shared=shared)
    return plan_slots(memory, geometry, positions=1504, states=512, most=most)


def test_sizes_in_bytes_fit_the_published_models():
    # Small has 420 million values in its decoder; a position of a pair takes 197 kB.
    assert weight_bytes(SMALL, 1) == pytest.approx(420e6, rel=0.01)
    assert slot_bytes(SMALL, 1, 0, 2) == 196_608


def test_an_h200_holds_64_of_medium_and_a_laptop_a_few_of_small():
    assert _fit(139 * GIB, MEDIUM) == 64
    assert _fit(8 * GIB) == 8


def test_memory_shared_with_the_host_has_a_larger_reserve():
    assert _fit(20 * GIB, shared=True) < _fit(20 * GIB)


@pytest.mark.parametrize("most", [1, 3, 5, 64])
def test_no_more_slots_than_requested_are_planned(most):
    assert _fit(100 * GIB, most=most) == most


def test_too_little_memory_is_reported_with_numbers():
    with pytest.raises(EngineUnavailableError, match=r"2\.0 GiB free.* needs 3\.\d GiB"):
        _fit(2 * GIB)


@given(st.integers(3 * GIB + 2**29, 200 * GIB), st.booleans(), st.sampled_from([SMALL, MEDIUM]))
def test_planned_slots_fit_and_the_next_bucket_does_not(free, shared, geometry):
    reserve = HOST_RESERVE_BYTES if shared else DEVICE_RESERVE_BYTES
    room = free - reserve - weight_bytes(geometry, 2)
    each = slot_bytes(geometry, 1504, 512, 2)
    try:
        slots = _fit(free, geometry, shared)
    except EngineUnavailableError:
        assert room < 2 * each
        return
    assert (slots + 1) * each <= room
    larger = [size for size in BUCKETS if size > slots]
    assert not larger or (larger[0] + 1) * each > room


@pytest.mark.parametrize(("count", "bucket"), [(1, 1), (2, 2), (3, 4), (33, 64), (64, 64)])
def test_a_batch_is_padded_to_the_next_bucket(count, bucket):
    assert bucket_for(count) == bucket


def test_no_bucket_holds_more_than_64():
    with pytest.raises(StopIteration):
        bucket_for(65)
    assert _fit(1000 * GIB, most=100) == 64


def test_a_melody_decoder_needs_less_memory():
    melody = replace(SMALL, cross_attention=False)
    assert weight_bytes(melody, 2) < weight_bytes(SMALL, 2)
    assert slot_bytes(melody, 1504, 512, 2) == slot_bytes(SMALL, 1504, 0, 2)
