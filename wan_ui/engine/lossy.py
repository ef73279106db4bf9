"""What trades exactness for memory or time: weights and products in fp8, skipped blocks; it knows no request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from diffusers import FirstBlockCacheConfig, WanTransformer3DModel
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from wan_ui.engine.streaming import ADAPTER_MARK
from wan_ui.errors import SpeedupNotSupported
from wan_ui.models import Speedup

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max  # 448
SMALLEST_ROW = 1e-12  # the largest value of a row of zeros is taken for this, so that nothing is divided by zero
ALIGNED = 16  # torch._scaled_mm on CUDA wants both sides of a weight to be multiples of this
PRODUCTS_SINCE = (8, 9)  # compute capability of the first GPUs with fp8 products: Ada; Hopper is 9.0
CACHE_THRESHOLD = 0.1  # relative change of the first block's residual below which the others are skipped


def check(speedup: Speedup, device: torch.device) -> None:
    """Raises SpeedupNotSupported for what the device cannot do. A CPU can do all, products only slowly."""
    if speedup == "fp8_products" and device.type != "cpu":
        able = device.type == "cuda" and torch.cuda.get_device_capability(device) >= PRODUCTS_SINCE
        if not able:
            raise SpeedupNotSupported(
                "fp8_products needs an NVIDIA GPU of compute capability 8.9 or later (Ada, Hopper, Blackwell), which "
                "this machine does not have. Set speedup to none, fp8_storage or step_cache.",
                speedup=speedup,
            )


def pack(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (n, k) as float8_e4m3fn, and each row's scale, (n, 1) float32, so that values ≈ packed × scale.

    Scales are powers of two: then neither the division nor the way back rounds, and fp8 keeps 4 significant bits
    whatever the scale. A row's largest value lands between 224 and 448, the largest that fp8 has.
    """
    largest = values.abs().amax(dim=-1, keepdim=True).float().clamp(min=SMALLEST_ROW)
    scale = torch.exp2(torch.ceil(torch.log2(largest / LARGEST)))
    return (values / scale.to(values.dtype)).to(FP8).contiguous(), scale


class PackedLinear(torch.nn.Linear):
    """A linear layer that keeps its weight in fp8, with one scale for each output channel.

    `weight` is unpacked at each use, in the dtype that the layer had: adapters around it read it as any other. With
    `products` the product itself is computed in fp8, each token of the input being packed with a scale of its own;
    a layer whose sides are not multiples of 16 has no fp8 product and goes on unpacking.
    """

    def __init__(self, linear: torch.nn.Linear, device: torch.device) -> None:
        """Packs on `device`, and keeps what comes out where the layer's weight is."""
        torch.nn.Module.__init__(self)  # Linear's own would allocate a weight
        home, self._dtype = linear.weight.device, linear.weight.dtype
        self.in_features, self.out_features = linear.in_features, linear.out_features
        packed, scale = pack(linear.weight.detach().to(device))
        # As parameters, so that whatever moves a transformer's weights moves these.
        self.packed = torch.nn.Parameter(packed.to(home), requires_grad=False)
        self.scale = torch.nn.Parameter(scale.to(home), requires_grad=False)
        self.bias = linear.bias
        self.products = False

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """(out, in) in the layer's own dtype; exactly packed × scale."""
        return self.packed.to(self._dtype) * self.scale.to(self._dtype)

    @property
    def has_products(self) -> bool:
        """Whether the product is computed in fp8."""
        return self.products and self.in_features % ALIGNED == 0 and self.out_features % ALIGNED == 0

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.has_products:
            return functional.linear(input, self.weight, self.bias)
        packed, scale = pack(input.reshape(-1, self.in_features))
        product = torch._scaled_mm(
            packed,
            self.packed.t(),
            scale_a=scale,
            scale_b=self.scale.t(),
            bias=self.bias,
            out_dtype=input.dtype,
        )
        return product.view(*input.shape[:-1], self.out_features)


def pack_blocks(transformer: WanTransformer3DModel, device: torch.device, products: bool) -> int:
    """Every linear layer of the blocks as a PackedLinear, adapted ones too. How many there are.

    98 % of the parameters are in these; embeddings, norms, modulation, the last projection and adapters stay as they
    are. Layers that are packed already are kept, and only told about `products`. One layer's weight at a time is
    unpacked on `device`.
    """
    found = [
        (name, module)
        for name, module in transformer.blocks.named_modules()
        if isinstance(module, torch.nn.Linear) and not any(part.startswith(ADAPTER_MARK) for part in name.split("."))
    ]
    for name, module in found:
        layer = module if isinstance(module, PackedLinear) else PackedLinear(module, device)
        layer.products = products
        if layer is not module:
            transformer.blocks.set_submodule(name, layer)
    return len(found)


Probe = Callable[[WanTransformer3DModel, torch.Tensor, Callable[[], torch.Tensor]], None]


class StepCache:
    """diffusers' first-block cache over one run: where the first block's residual has changed by less than the
    threshold since the blocks were last computed, their last residual is added again and they are skipped.

    The conditional and the unconditional half decide each for itself. Nothing is carried from one transformer, or
    from one run, to another. `forwards` counts the transformers' forwards, `computed` those whose blocks ran.
    """

    def __init__(self, threshold: float = CACHE_THRESHOLD) -> None:
        self.forwards = 0
        self.computed = 0
        self._threshold = threshold
        self._transformer: WanTransformer3DModel | None = None
        self._counter: RemovableHandle | None = None
        self._own: Callable[..., torch.Tensor] | None = None

    def enter(self, transformer: WanTransformer3DModel) -> None:
        """The transformer is at work from here on; what was kept of another is let go."""
        self.leave()
        self._counter = transformer.blocks[0].register_forward_pre_hook(self._begin)
        # A skipped block is called too; what is not called is the forward that the cache has put its own before.
        self._own = transformer.blocks[-1].__dict__.get("forward")
        transformer.blocks[-1].forward = partial(self._compute, transformer.blocks[-1].forward)
        self._transformer = transformer
        transformer.enable_cache(FirstBlockCacheConfig(threshold=self._threshold))

    def leave(self) -> None:
        """No transformer is at work: its hooks and what they kept are gone."""
        if self._transformer is None or self._counter is None:
            return
        self._transformer.disable_cache()
        self._counter.remove()
        last, self._transformer = self._transformer.blocks[-1], None
        if self._own is None:
            del last.forward
        else:
            last.forward = self._own

    def uncounted(self, probe: Probe) -> Probe:
        """The probe, whose own forwards are no part of the run."""

        def probing(
            transformer: WanTransformer3DModel, prediction: torch.Tensor, again: Callable[[], torch.Tensor]
        ) -> None:
            before = self.forwards, self.computed
            probe(transformer, prediction, again)
            self.forwards, self.computed = before

        return probing

    def _begin(self, module: torch.nn.Module, arguments: Any) -> None:
        self.forwards += 1

    def _compute(self, forward: Callable[..., torch.Tensor], *arguments: Any, **named: Any) -> torch.Tensor:
        self.computed += 1
        return forward(*arguments, **named)


@contextmanager
def step_cache(speedup: Speedup) -> Iterator[StepCache | None]:
    """The cache of one run, or None where the run has none; gone at the end, however it ends."""
    if speedup != "step_cache":
        yield None
        return
    cache = StepCache()
    try:
        yield cache
    finally:
        cache.leave()
