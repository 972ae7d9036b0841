"""The LSTM of an EnCodec decoder, from a state to a state.

On an x86 CPU torch's LSTM is oneDNN's, which lays the weights out anew at every call: that takes as
long as forty frames. Here they are laid out once, by the operators with which torch's compiler does
the same, and the numbers are those of torch's LSTM to the last bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from services.generation.musicgen.linear import has_packed_fp32

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

Memory = tuple["Tensor", "Tensor"]
"""What it remembers of the frames before: `[layers, rows, width]` each."""

_LSTM_MODE = 2
"""What oneDNN's operator calls an LSTM among the recurrent layers: at::native's rnn cells."""


def recurrence(
    lstm: nn.LSTM, device: torch.device
) -> Callable[[Tensor, Memory | None], tuple[Tensor, Memory]]:
    """An LSTM on `device` over `[frames, rows, width]`; None is the state of the start.

    It must run in one direction, have biases, and be as wide inside as its input.
    """
    if device.type != "cpu" or not has_packed_fp32():
        return lstm
    return PackedLSTM(lstm)


class PackedLSTM:
    """An LSTM whose weights lie as oneDNN wants them."""

    def __init__(self, lstm: nn.LSTM) -> None:
        """Copy the weights of a module, whose own can go."""
        self._layers, self._width = lstm.num_layers, lstm.hidden_size
        self._weights = [self._pack(lstm, layer) for layer in range(self._layers)]

    def __call__(self, steps: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """As `recurrence` says."""
        if memory is None:
            start = steps.new_zeros(self._layers, steps.shape[1], self._width)
            memory = start, start
        operators: Any = torch.ops.aten
        states = steps.contiguous()
        after = []
        for weights, hidden, cell in zip(self._weights, *memory, strict=True):
            states, *ends, _ = operators.mkldnn_rnn_layer(
                states,
                *weights,
                hidden,
                cell,
                reverse=False,
                batch_sizes=[],
                mode=_LSTM_MODE,
                hidden_size=self._width,
                num_layers=1,
                has_biases=True,
                bidirectional=False,
                batch_first=False,
                train=False,
            )
            after.append(ends)
        last_hidden, last_cell = (torch.stack(each) for each in zip(*after, strict=True))
        return states, (last_hidden, last_cell)

    def _pack(self, lstm: nn.LSTM, layer: int) -> tuple[Tensor, ...]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        of_input, of_state, *biases = (getattr(lstm, f"{name}_l{layer}").detach() for name in names)
        operators: Any = torch.ops.mkldnn
        packed = operators._reorder_mkldnn_rnn_layer_weight(
            of_input, of_state, self._width, reverse=False, has_biases=True, batch_first=False
        )
        return (*packed, *biases)
