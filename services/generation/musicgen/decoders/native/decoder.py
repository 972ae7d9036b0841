"""The decoder on the CPU in C (step.c)."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch

from services.generation.musicgen.decoders.layer_weights import read_ends, read_layer, sinusoids
from services.generation.musicgen.decoders.native.cores import physical_cores
from services.generation.musicgen.decoders.native.library import (
    Format,
    MatrixName,
    NativeUnavailableError,
    Shape,
    VectorName,
    levels,
    library,
)

if TYPE_CHECKING:
    from torch import Tensor

    from services.generation.musicgen.geometry import Geometry
    from services.generation.weights.weights import WeightSource

_FORMATS = {"int8": Format.INT8, "fp32": Format.FLOAT32}
PREFILL_PAIRS = 32
"""Positions of a prefill that are computed at once."""


class NativeDecoder:
    """A `StepModel` in C: int8 weights and KV cache, or float32 throughout.

    int8 means weights and inputs in groups of 128, each with a scale; a short prompt becomes part
    of the weights (prompt.h). Layers are read and packed one at a time to limit memory.
    """

    def __init__(
        self,
        source: WeightSource,
        geometry: Geometry,
        slots: int,
        positions: int,
        weights: Literal["int8", "fp32"] = "int8",
        threads: int | None = None,
        level: str | None = None,
    ) -> None:
        """Read and pack the weights.

        Args:
            source: the decoder's tensors.
            geometry: the shape they must have.
            slots: requests that can run at once.
            positions: positions of a slot's cache, a prefix included.
            weights: precision of the weights.
            threads: number of threads; None is one per physical core.
            level: an instruction set of `levels()`; None is the fastest.

        Raises:
            NativeUnavailableError: the library, the level, the memory or a kernel is missing.
            CheckpointError: a tensor is missing, damaged or of another shape.
        """
        self._geometry, self._slots, self._positions = geometry, slots, positions
        self._library, self._lock = library(), threading.Lock()
        known = levels()
        if level is not None and level not in known:
            raise NativeUnavailableError(f"This processor cannot run {level}.")
        shape = Shape(
            layers=geometry.layers,
            hidden=geometry.hidden,
            heads=geometry.heads,
            ffn=geometry.ffn,
            codebooks=geometry.codebooks,
            codebook_size=geometry.codebook_size,
            cross_attention=geometry.cross_attention,
            slots=slots,
            positions=positions,
            format=_FORMATS[weights],
            threads=threads or physical_cores(),
            level=known[level or list(known)[-1]],
        )
        self._max_pairs = max(slots, PREFILL_PAIRS)
        self._model = self._library.musicgen_new(ctypes.byref(shape), self._max_pairs)
        if not self._model:
            raise NativeUnavailableError(
                f"The native step has no kernel, or this machine no memory, for {slots} slots of "
                f"{positions} positions of a decoder of {geometry.hidden} values in "
                f"{geometry.heads} heads."
            )
        # Not at exit: another thread may still be in a step.
        weakref.finalize(self, _free, self._library, self._model, os.getpid()).atexit = False
        self._first_positions = [0] * slots
        self._load(source)

    @property
    def geometry(self) -> Geometry:
        return self._geometry

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def positions(self) -> int:
        return self._positions

    def admit(self, slot: int, states: Tensor, unconditional: Tensor | None = None) -> int:
        states = states.detach().to(torch.float32).contiguous()
        length = states.shape[0]
        if states.shape != (length, self._geometry.hidden):
            raise ValueError(f"states of {tuple(states.shape)}, not [length, hidden].")
        if not self._geometry.cross_attention:
            other = torch.zeros_like(states) if unconditional is None else unconditional
            self._fill_cache(slot, 0, states=torch.stack([states, other.to(torch.float32)], dim=1))
            self._first_positions[slot] = length
            return length
        with self._lock:
            code = self._library.musicgen_admit(self._model, slot, states.data_ptr(), length)
        if code == -2:
            raise NativeUnavailableError(f"There is no memory for {length} states of a prompt.")
        if code:
            raise ValueError(f"slot {slot} of {self._slots} with {length} states.")
        return 0

    def prefill(self, slot: int, tokens: Tensor) -> None:
        self._fill_cache(slot, self._first_positions[slot], tokens=tokens.t().contiguous())

    def step(self, slots: Sequence[int], tokens: Tensor, positions: Sequence[int]) -> Tensor:
        geometry, count = self._geometry, len(slots)
        logits = torch.empty(2, count, geometry.codebooks, geometry.codebook_size)
        self._forward(slots, positions, tokens=tokens.contiguous(), logits=logits)
        return logits

    def read_weights(self) -> int:
        """Read most weights once, a lower bound for the time of a step; return their bytes."""
        with self._lock:
            return int(self._library.musicgen_read(self._model))

    def _fill_cache(
        self, slot: int, first: int, *, tokens: Tensor | None = None, states: Tensor | None = None
    ) -> None:
        """Run tokens `[length, codebooks]` or states `[length, 2, hidden]` from `first` on."""
        given = tokens if tokens is not None else states
        assert given is not None
        for start in range(0, given.shape[0], self._max_pairs):
            end = min(start + self._max_pairs, given.shape[0])
            self._forward(
                [slot] * (end - start),
                range(first + start, first + end),
                tokens=None if tokens is None else tokens[start:end],
                states=None if states is None else states[start:end].transpose(0, 1).contiguous(),
            )

    def _forward(
        self,
        slots: Sequence[int],
        positions: Sequence[int],
        *,
        tokens: Tensor | None = None,
        states: Tensor | None = None,
        logits: Tensor | None = None,
    ) -> None:
        count = len(slots)
        wanted = (count, self._geometry.codebooks)
        if len(positions) != count or (
            tokens is not None and (tokens.shape != wanted or tokens.dtype != torch.int64)
        ):
            raise ValueError(f"{count} slots, {len(positions)} positions and tokens do not match.")
        integers = ctypes.c_int32 * count
        with self._lock:
            code = self._library.musicgen_forward(
                self._model,
                count,
                integers(*slots),
                integers(*positions),
                None if tokens is None else tokens.data_ptr(),
                None if states is None else states.data_ptr(),
                None if logits is None else logits.data_ptr(),
            )
        if code:
            raise ValueError(f"slots {list(slots)} at {list(positions)}: out of range.")

    def _load(self, source: WeightSource) -> None:
        geometry = self._geometry
        for i in range(geometry.layers):
            layer = read_layer(source, geometry, i)
            self._set_matrix(MatrixName.QKV, layer.qkv, i)
            self._set_matrix(MatrixName.SELF_OUT, layer.out, i)
            self._set_matrix(MatrixName.FC1, layer.fc1, i)
            self._set_matrix(MatrixName.FC2, layer.fc2, i)
            self._set_vectors(VectorName.SELF_NORM, layer.norm.weight, layer.norm.bias, i)
            self._set_vectors(VectorName.LAST_NORM, layer.ffn_norm.weight, layer.ffn_norm.bias, i)
            if (cross := layer.cross) is not None:
                self._set_matrix(MatrixName.CROSS_Q, cross.query, i)
                self._set_matrix(MatrixName.CROSS_KV, cross.key, i)
                self._set_matrix(MatrixName.CROSS_KV, cross.value, i, first=geometry.hidden)
                self._set_matrix(MatrixName.CROSS_OUT, cross.out, i)
                self._set_vectors(VectorName.CROSS_NORM, cross.norm.weight, cross.norm.bias, i)
        ends = read_ends(source, geometry)
        self._set_vectors(VectorName.FINAL_NORM, ends.norm.weight, ends.norm.bias)
        self._set_matrix(MatrixName.HEADS, ends.heads)
        self._set_vectors(VectorName.EMBEDDINGS, ends.embeddings)
        self._set_vectors(VectorName.SINUSOIDS, sinusoids(self._positions, geometry.hidden))

    def _set_matrix(self, name: MatrixName, data: Tensor, layer: int = 0, first: int = 0) -> None:
        """Set the outputs of a matrix from `first` on."""
        data = data.contiguous()
        code = self._library.musicgen_matrix(
            self._model, name, layer, first, *data.shape, data.data_ptr()
        )
        assert code == 0

    def _set_vectors(
        self, name: VectorName, first: Tensor, second: Tensor | None = None, layer: int = 0
    ) -> None:
        first = first.contiguous()
        second = first if second is None else second.contiguous()
        code = self._library.musicgen_vectors(
            self._model, name, layer, first.data_ptr(), second.data_ptr()
        )
        assert code == 0


def _free(native: ctypes.CDLL, model: int, process: int) -> None:
    # A forked child does not have the threads and would wait for them for ever.
    if os.getpid() == process:
        native.musicgen_free(model)
