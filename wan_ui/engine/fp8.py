"""Transformer weights, and optionally matrix products, in 8-bit floating point (float8_e4m3fn)."""

from __future__ import annotations

import torch
from diffusers import WanTransformer3DModel
from torch.nn import functional

from wan_ui.checkpoints.fp8_linear import UnpackedAtUse
from wan_ui.engine.streaming import ADAPTER_PREFIX
from wan_ui.errors import SpeedupNotSupported
from wan_ui.models import Speedup

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max  # 448
SMALLEST_ROW = 1e-12  # lower bound of a row's largest value, so that a row of zeros is not divided by zero
ALIGNED = 16  # torch._scaled_mm on CUDA wants both sides of a weight to be multiples of this
PRODUCTS_SINCE = (8, 9)  # compute capability of the first GPUs with fp8 products: Ada; Hopper is 9.0


def check_supported(speedup: Speedup, device: torch.device) -> None:
    """Raises SpeedupNotSupported for a speed-up that the device cannot do. A CPU does all, products slowly."""
    if speedup == "fp8_products" and device.type != "cpu":
        supported = device.type == "cuda" and torch.cuda.get_device_capability(device) >= PRODUCTS_SINCE
        if not supported:
            raise SpeedupNotSupported(
                "fp8_products needs an NVIDIA GPU of compute capability 8.9 or later (Ada, Hopper, Blackwell), which "
                "this machine does not have. Set speedup to none, fp8_storage or step_cache.",
                speedup=speedup,
            )


def pack(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (n, k) as float8_e4m3fn, and each row's scale, (n, 1) float32, so that values ≈ packed × scale.

    The scale of a row is 2 ** ceil(log2(max|row| / 448)). Scales are powers of two, so neither the division nor the
    multiplication back rounds, and only the cast does: e4m3 has 3 stored bits of mantissa, so at most 2⁻⁴ relative.
    A row's largest value lands between 224 and 448, the largest that fp8 has.
    """
    largest = values.abs().amax(dim=-1, keepdim=True).float().clamp(min=SMALLEST_ROW)
    scale = torch.exp2(torch.ceil(torch.log2(largest / LARGEST)))
    return (values / scale.to(values.dtype)).to(FP8).contiguous(), scale


class PackedLinear(UnpackedAtUse):
    """A linear layer whose weight is stored in fp8, with one scale per output channel.

    `weight` is unpacked at each use, in the dtype that the layer had, so adapters can read it like any other. With
    `products` the product itself is computed in fp8, every token of the input packed with a scale of its own:
    y[t, o] = scale_x[t] × scale_w[o] × Σ_k x8[t, k] × w8[o, k] + bias[o], summed in float32.
    A layer whose sides are not multiples of 16 has no fp8 product and is unpacked instead.
    """

    def __init__(self, linear: torch.nn.Linear, device: torch.device) -> None:
        """Packs on `device`; the packed weight is stored on the device of the layer's weight."""
        torch.nn.Module.__init__(self)  # Linear's own would allocate a weight
        stored_on, self.dtype = linear.weight.device, linear.weight.dtype
        self.in_features, self.out_features = linear.in_features, linear.out_features
        packed, scale = pack(linear.weight.detach().to(device))
        # As parameters, so that whatever moves a transformer's weights moves these.
        self.packed = torch.nn.Parameter(packed.to(stored_on), requires_grad=False)
        self.scale = torch.nn.Parameter(scale.to(stored_on), requires_grad=False)
        self.bias = linear.bias
        self.products = False

    def weight_on(self, device: torch.device) -> torch.Tensor:
        """(out, in) in the layer's own dtype, unpacked on a device; exactly packed × scale."""
        return self.packed.to(device, self.dtype) * self.scale.to(device, self.dtype)

    @property
    def has_products(self) -> bool:
        """Whether the product is computed in fp8."""
        return self.products and self.in_features % ALIGNED == 0 and self.out_features % ALIGNED == 0

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(…, in) to (…, out), in the dtype of the input."""
        if not self.has_products:
            return functional.linear(input, self.weight, self.bias)
        packed, scale = pack(input.reshape(-1, self.in_features))  # (tokens, in) fp8, (tokens, 1) float32
        product = torch._scaled_mm(
            packed,
            self.packed.t(),  # (in, out), column-major as the kernel requires
            scale_a=scale,
            scale_b=self.scale.t(),
            bias=self.bias,
            out_dtype=input.dtype,
        )
        return product.view(*input.shape[:-1], self.out_features)


def pack_blocks(transformer: WanTransformer3DModel, device: torch.device, products: bool) -> int:
    """Replaces every linear layer of the blocks by a PackedLinear, adapted ones too; returns how many there are.

    98 % of the parameters are in these; embeddings, norms, modulation, the last projection and adapters are left.
    Layers that are packed already only get the new `products`. One layer at a time is packed on `device`.
    """
    linears = [
        (name, module)
        for name, module in transformer.blocks.named_modules()
        if isinstance(module, torch.nn.Linear) and not any(part.startswith(ADAPTER_PREFIX) for part in name.split("."))
    ]
    for name, module in linears:
        layer = module if isinstance(module, PackedLinear) else PackedLinear(module, device)
        layer.products = products
        if layer is not module:
            transformer.blocks.set_submodule(name, layer)
    return len(linears)
