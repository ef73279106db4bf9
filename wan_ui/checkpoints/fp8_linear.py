"""Linear layers that keep a checkpoint file's fp8 weights as they are, and give the bits of the unpacked ones.

The weight is `packed.to(float32) × scale`, rounded once to the layer's dtype, at each use: the numbers that reading the
file unpacked gives, so that frames are equal either way. It costs the unpacking at each use and saves half of bf16's
memory. The packed tensors may lie in the file's own pages, which the system drops and reads again as it needs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn import functional

from wan_ui.checkpoints.tensors import dequantize


class UnpackedAtUse(torch.nn.Linear):
    """A linear layer that keeps its weight packed; each look at `weight` unpacks it, which takes a CPU a good while.

    Within `shapes_only`, `weight` has the shape, dtype and device of the unpacked one, and no numbers.
    """

    packed: torch.nn.Parameter
    dtype: torch.dtype
    has_shape_only = False

    @abstractmethod
    def weight_on(self, device: torch.device) -> torch.Tensor:
        """(out, in) in the layer's own dtype, unpacked on a device."""

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """(out, in) in the layer's own dtype."""
        if self.has_shape_only:
            return torch.empty((), dtype=self.dtype, device=self.packed.device).expand(self.packed.shape)
        return self.weight_on(self.packed.device)


@contextmanager
def shapes_only(module: torch.nn.Module) -> Iterator[None]:
    """Within it no layer is unpacked: PEFT looks at a weight some twenty times while it attaches an adapter to it."""
    layers = [layer for layer in module.modules() if isinstance(layer, UnpackedAtUse)]
    for layer in layers:
        layer.has_shape_only = True
    try:
        yield
    finally:
        for layer in layers:
            layer.has_shape_only = False


class Fp8Linear(UnpackedAtUse):
    """A linear layer with an fp8 weight and one scale for the whole of it, or none.

    `weight` is unpacked at each use, (out, in) in the layer's dtype: adapters around it read it as any other.
    """

    def __init__(
        self, packed: torch.Tensor, scale: float | None, bias: torch.Tensor | None, dtype: torch.dtype
    ) -> None:
        torch.nn.Module.__init__(self)  # Linear's own would allocate a weight
        self.out_features, self.in_features = packed.shape
        self.packed = torch.nn.Parameter(packed, requires_grad=False)
        # A number and not a tensor: no cast of the model's parameters may round it. float32 goes into it exactly.
        self.scale = scale
        self.dtype = dtype
        self.register_parameter("bias", None if bias is None else torch.nn.Parameter(bias, requires_grad=False))

    def weight_on(self, device: torch.device) -> torch.Tensor:
        """(out, in) in the layer's own dtype, unpacked on a device."""
        scale = None
        if self.scale is not None:
            scale = torch.full((), self.scale, dtype=torch.float32, device=device)
        return dequantize(self.packed.to(device), scale, self.dtype)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(…, in) to (…, out)."""
        return functional.linear(input, self.weight, self.bias)

    def unpacked(self) -> torch.nn.Linear:
        """An ordinary linear layer with the same weight, which may be changed."""
        linear = torch.nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear.weight = torch.nn.Parameter(self.weight, requires_grad=False)
        linear.bias = self.bias
        return linear.eval()


def packed_layers(module: torch.nn.Module) -> Iterator[tuple[str, Fp8Linear]]:
    """The layers of a module whose weights are a file's fp8."""
    for name, layer in module.named_modules():
        if isinstance(layer, Fp8Linear):
            yield name, layer
