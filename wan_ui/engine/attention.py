"""Which attention kernel PyTorch runs the transformers' self-attention on, by name."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch.utils._python_dispatch import TorchDispatchMode

log = logging.getLogger(__name__)

TOKENS = 512  # of the one small call whose operators are recorded
KNOWN: Mapping[str, str] = {
    "_scaled_dot_product_cudnn_attention": "cuDNN",
    "_scaled_dot_product_flash_attention": "FlashAttention-2",
    "_scaled_dot_product_efficient_attention": "memory-efficient attention",
    "_scaled_dot_product_flash_attention_for_cpu": "PyTorch's CPU attention",
    "_scaled_dot_product_fused_attention_overrideable": "the device's own attention",
}
PLAIN = "plain products and softmax"


def kernel(transformer: WanTransformer3DModel, device: torch.device, dtype: torch.dtype) -> str:
    """The kernel that the transformer's self-attention runs on; logged the first time.

    PyTorch chooses by GPU, dtype, head width and its own version, and offers no way to ask, so one small call is made
    and the operators that it dispatches to are recorded.
    """
    config, chosen = transformer.config, transformer.blocks[0].attn1.processor._attention_backend
    return _called(str(device), dtype, config.num_attention_heads, config.attention_head_dim, chosen)


@lru_cache(maxsize=16)
def _called(device: str, dtype: torch.dtype, heads: int, width: int, backend: Any) -> str:
    tokens = torch.zeros(1, TOKENS, heads, width, device=device, dtype=dtype)
    with torch.no_grad(), _OperatorRecorder() as recorder:
        dispatch_attention_fn(tokens, tokens, tokens, backend=backend)
    name = kernel_name(recorder.operators)
    log.info("attention runs on %s", name, extra={"device": device, "dtype": str(dtype).removeprefix("torch.")})
    return name


def kernel_name(operators: list[str]) -> str:
    """The name from operators such as `aten::_scaled_dot_product_cudnn_attention.default`; an unknown one's own."""
    names = [operator.split(".")[0].removeprefix("aten::") for operator in operators]
    attention = [name for name in names if "attention" in name or "attn" in name]
    return KNOWN.get(attention[0], attention[0]) if attention else PLAIN


class _OperatorRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operators that reach a kernel."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.operators.append(func.name())
        return func(*args, **(kwargs or {}))
