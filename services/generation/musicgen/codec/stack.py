"""The upsampling stack of an EnCodec decoder, in a memory layout that is fast to convolve.

The layers and their results are those of transformers. transformers uses `[rows, channels, time]`,
which every oneDNN convolution on a CPU reorders and restores. Here a signal is an image of one line
in oneDNN's order (channels last), and activations are computed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

_Step = Callable[["Tensor"], "Tensor"]


class CodecStack:
    """Upsamplings and residual blocks: `[rows, width, frames]` to `[rows, samples]`."""

    def __init__(self, layers: Sequence[Any], device: torch.device) -> None:
        """Copy the layers after the LSTM of transformers' EncodecDecoder; they are on `device`.

        Raises:
            TypeError: a layer is of an unknown kind.
        """
        is_cpu = device.type == "cpu"
        self._format = torch.channels_last if is_cpu else torch.contiguous_format
        self._steps = [self._step(layer) for layer in layers]

    def __call__(self, states: Tensor) -> Tensor:
        signal = states.unsqueeze(2).clone(memory_format=self._format)
        for step in self._steps:
            signal = step(signal)
        return signal[:, 0, 0]

    def _step(self, layer: Any) -> _Step:
        match type(layer).__name__:
            case "ELU":
                return functional.elu_
            case "EncodecConvTranspose1d":
                return self._upsampling(layer.conv)
            case "EncodecConv1d":
                return self._convolution(layer.conv, layer.pad_mode)
            case "EncodecResnetBlock":
                return self._block(layer)
            case other:
                raise TypeError(f"{other} is not a layer of the codec.")

    def _block(self, block: Any) -> _Step:
        first, *others = [self._step(layer) for layer in block.block]
        assert first is functional.elu_
        shortcut = block.shortcut
        bypass = None if isinstance(shortcut, torch.nn.Identity) else self._step(shortcut)

        def add(signal: Tensor) -> Tensor:
            inner = functional.elu(signal)
            for step in others:
                inner = step(inner)
            return inner.add_(signal if bypass is None else bypass(signal))

        return add

    def _weight(self, convolution: Any) -> Tensor:
        weight: Tensor = convolution.weight.detach().unsqueeze(2)
        return weight.contiguous(memory_format=self._format)

    def _upsampling(self, convolution: Any) -> _Step:
        weight, bias = self._weight(convolution), convolution.bias.detach()
        stride = convolution.stride[0]
        surplus = convolution.kernel_size[0] - stride
        left, right = surplus - surplus // 2, surplus // 2

        def upsample(signal: Tensor) -> Tensor:
            longer = functional.conv_transpose2d(signal, weight, bias, stride=(1, stride))
            return longer[..., left : longer.shape[-1] - right]

        return upsample

    def _convolution(self, convolution: Any, pad_mode: str) -> _Step:
        weight, bias = self._weight(convolution), convolution.bias.detach()
        dilation = convolution.dilation[0]
        surplus = (convolution.kernel_size[0] - 1) * dilation
        left, right = surplus - surplus // 2, surplus // 2

        def convolve(signal: Tensor) -> Tensor:
            if left or right:
                signal = functional.pad(signal, (left, right, 0, 0), mode=pad_mode)
            return functional.conv2d(signal, weight, bias, dilation=(1, dilation))

        return convolve
