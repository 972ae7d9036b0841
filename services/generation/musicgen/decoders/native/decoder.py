"""The decoder on the CPU by step.c."""

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
PREFILL = 32
"""Positions that are taken in at once ahead of the steps."""


class NativeDecoder:
    """A StepModel in C: int8 weights, keys and values, or float32 throughout.

    int8 is weights and inputs in groups of 128, each group with a scale; a short prompt becomes
    part of the weights (prompt.h). Layers are packed as they are read, so that beside what is kept
    there is one of them at a time.
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
        """Take the weights in.

        Args:
            source: the decoder's tensors.
            geometry: their shape.
            slots: how many sequences at once.
            positions: how many positions a slot can hold, a prefix included.
            weights: how they are kept.
            threads: how many; by default one for each physical core.
            level: an instruction set of `levels()`; by default the fastest.

        Raises:
            NativeUnavailableError: there is no library, level, memory or kernel for this shape.
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
        self._places = max(slots, PREFILL)
        self._model = self._library.musicgen_new(ctypes.byref(shape), self._places)
        if not self._model:
            raise NativeUnavailableError(
                f"The native step has no kernel, or this machine no memory, for {slots} slots of "
                f"{positions} positions of a decoder of {geometry.hidden} values in "
                f"{geometry.heads} heads."
            )
        # When the process ends another thread may be within a step.
        weakref.finalize(self, _free, self._library, self._model, os.getpid()).atexit = False
        self._first = [0] * slots
        self._load(source)

    @property
    def geometry(self) -> Geometry:
        """The shape of the decoder."""
        return self._geometry

    @property
    def slots(self) -> int:
        """How many requests at once."""
        return self._slots

    @property
    def positions(self) -> int:
        """How many positions a slot can hold, a prefix included."""
        return self._positions

    def admit(self, slot: int, states: Tensor, unconditional: Tensor | None = None) -> int:
        """Begin a sequence in a slot, as StepModel says."""
        states = states.detach().to(torch.float32).contiguous()
        length = states.shape[0]
        if states.shape != (length, self._geometry.hidden):
            raise ValueError(f"states of {tuple(states.shape)}, not [length, hidden].")
        if not self._geometry.cross_attention:
            other = torch.zeros_like(states) if unconditional is None else unconditional
            self._take_in(slot, 0, states=torch.stack([states, other.to(torch.float32)], dim=1))
            self._first[slot] = length
            return length
        with self._lock:
            code = self._library.musicgen_admit(self._model, slot, states.data_ptr(), length)
        if code == -2:
            raise NativeUnavailableError(f"There is no memory for {length} states of a prompt.")
        if code:
            raise ValueError(f"slot {slot} of {self._slots} with {length} states.")
        return 0

    def prefill(self, slot: int, tokens: Tensor) -> None:
        """Take in int64 `[codebooks, length]`, as StepModel says."""
        self._take_in(slot, self._first[slot], tokens=tokens.t().contiguous())

    def step(self, slots: Sequence[int], tokens: Tensor, positions: Sequence[int]) -> Tensor:
        """One step of the named slots, as StepModel says."""
        geometry, count = self._geometry, len(slots)
        logits = torch.empty(2, count, geometry.codebooks, geometry.codebook_size)
        self._forward(slots, positions, tokens=tokens.contiguous(), logits=logits)
        return logits

    def read_weights(self) -> int:
        """Read most of the weights once, as a step would at best, and return their bytes."""
        with self._lock:
            return int(self._library.musicgen_read(self._model))

    def _take_in(
        self, slot: int, first: int, *, tokens: Tensor | None = None, states: Tensor | None = None
    ) -> None:
        """Tokens `[length, codebooks]` or states `[length, 2, hidden]`, a few at a time."""
        given = tokens if tokens is not None else states
        assert given is not None
        for start in range(0, given.shape[0], self._places):
            end = min(start + self._places, given.shape[0])
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
            raise ValueError(f"{count} slots, {len(positions)} positions and other tokens.")
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
            self._matrix(MatrixName.QKV, layer.qkv, i)
            self._matrix(MatrixName.SELF_OUT, layer.out, i)
            self._matrix(MatrixName.FC1, layer.fc1, i)
            self._matrix(MatrixName.FC2, layer.fc2, i)
            self._vectors(VectorName.SELF_NORM, layer.norm.weight, layer.norm.bias, i)
            self._vectors(VectorName.LAST_NORM, layer.ffn_norm.weight, layer.ffn_norm.bias, i)
            if (cross := layer.cross) is not None:
                self._matrix(MatrixName.CROSS_Q, cross.query, i)
                self._matrix(MatrixName.CROSS_KV, cross.key, i)
                self._matrix(MatrixName.CROSS_KV, cross.value, i, first=geometry.hidden)
                self._matrix(MatrixName.CROSS_OUT, cross.out, i)
                self._vectors(VectorName.CROSS_NORM, cross.norm.weight, cross.norm.bias, i)
        ends = read_ends(source, geometry)
        self._vectors(VectorName.FINAL_NORM, ends.norm.weight, ends.norm.bias)
        self._matrix(MatrixName.HEADS, ends.heads)
        self._vectors(VectorName.EMBEDDINGS, ends.embeddings)
        self._vectors(VectorName.SINUSOIDS, sinusoids(self._positions, geometry.hidden))

    def _matrix(self, name: MatrixName, data: Tensor, layer: int = 0, first: int = 0) -> None:
        """The outputs of a matrix from `first` on."""
        data = data.contiguous()
        code = self._library.musicgen_matrix(
            self._model, name, layer, first, *data.shape, data.data_ptr()
        )
        assert code == 0

    def _vectors(
        self, name: VectorName, first: Tensor, second: Tensor | None = None, layer: int = 0
    ) -> None:
        first = first.contiguous()
        second = first if second is None else second.contiguous()
        code = self._library.musicgen_vectors(
            self._model, name, layer, first.data_ptr(), second.data_ptr()
        )
        assert code == 0


def _free(native: ctypes.CDLL, model: int, process: int) -> None:
    # A forked child has none of the threads, and would wait for them.
    if os.getpid() == process:
        native.musicgen_free(model)
