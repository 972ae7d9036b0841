"""The LSTM of an EnCodec decoder, with its state as input and output.

On an x86 CPU, torch calls oneDNN's LSTM, which reorders the weights at every call and takes as long
for it as for forty frames. Here they are reordered once, with the operators that torch's compiler
uses for that. The results are bitwise those of torch's LSTM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from services.generation.musicgen.linear import has_packed_fp32

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

LstmState = tuple["Tensor", "Tensor"]
"""Hidden and cell state, `[layers, rows, width]` each."""

_LSTM_MODE = 2
"""The number of LSTM among the cell types of oneDNN's operator (at::native)."""


def pack_lstm(
    lstm: nn.LSTM, device: torch.device
) -> Callable[[Tensor, LstmState | None], tuple[Tensor, LstmState]]:
    """Return a function over `[frames, rows, width]` and a state; None is the initial state.

    The module must be on `device`, unidirectional, with biases, and as wide as its input.
    """
    if device.type != "cpu" or not has_packed_fp32():
        return lstm
    return PackedLSTM(lstm)


class PackedLSTM:
    """An LSTM with weights in oneDNN's layout."""

    def __init__(self, lstm: nn.LSTM) -> None:
        """Copy the weights of a module, which may be freed."""
        self._layers, self._width = lstm.num_layers, lstm.hidden_size
        self._weights = [self._pack(lstm, layer) for layer in range(self._layers)]

    def __call__(self, steps: Tensor, state: LstmState | None) -> tuple[Tensor, LstmState]:
        if state is None:
            zeros = steps.new_zeros(self._layers, steps.shape[1], self._width)
            state = zeros, zeros
        operators: Any = torch.ops.aten
        outputs = steps.contiguous()
        new_states = []
        for weights, hidden, cell in zip(self._weights, *state, strict=True):
            outputs, *new_state, _ = operators.mkldnn_rnn_layer(
                outputs,
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
            new_states.append(new_state)
        last_hidden, last_cell = (torch.stack(each) for each in zip(*new_states, strict=True))
        return outputs, (last_hidden, last_cell)

    def _pack(self, lstm: nn.LSTM, layer: int) -> tuple[Tensor, ...]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        of_input, of_state, *biases = (getattr(lstm, f"{name}_l{layer}").detach() for name in names)
        operators: Any = torch.ops.mkldnn
        packed = operators._reorder_mkldnn_rnn_layer_weight(
            of_input, of_state, self._width, reverse=False, has_biases=True, batch_first=False
        )
        return (*packed, *biases)
