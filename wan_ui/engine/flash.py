"""FlashAttention-4 as an optional attention kernel: faster than PyTorch's own, with other rounding."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

log = logging.getLogger(__name__)

GPUS = (9, 10)  # compute capabilities, Hopper's and Blackwell's, for which it was written
HEAD = 128  # Wan's attention heads, in channels
NAME = "FlashAttention-4"
PACKAGE = "flash-attn-4[cu13]==4.0.0b36"


def available(device: torch.device) -> bool:
    """Whether the optional package flash-attn-4 is installed and computes on this device; logged once."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] not in GPUS:
        return False
    return _computes(device)


@cache
def _computes(device: torch.device) -> bool:
    few = torch.zeros(1, HEAD, 1, HEAD, device=device, dtype=torch.bfloat16)
    try:
        _kernel()(few, few, few)
        torch.cuda.synchronize(device)
    except ModuleNotFoundError:
        log.info("attention of compiled blocks: PyTorch's own; faster with %s: pip install '%s'", NAME, PACKAGE)
        return False
    except (ImportError, RuntimeError, AssertionError, TypeError, ValueError, AttributeError) as error:
        log.warning("%s is installed and does not run on this GPU: %s", NAME, error)
        return False
    log.info("attention of compiled blocks: %s", NAME)
    return True


@cache
def _kernel() -> Callable[..., Any]:
    from flash_attn.cute.interface import flash_attn_func

    kernel: Callable[..., Any] = flash_attn_func
    return kernel


@torch.library.custom_op("wan_ui::flash_attention", mutates_args=())
def flash_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """softmax(QKᵀ / √128) V over all positions. bfloat16, (batch, heads, tokens, 128), like PyTorch's own."""
    result = _kernel()(*(part.transpose(1, 2) for part in (query, key, value)))
    attended: torch.Tensor = result[0] if isinstance(result, tuple) else result
    return attended.transpose(1, 2)


@flash_attention.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    batch, heads, tokens, channels = query.shape
    return query.new_empty((batch, tokens, heads, channels)).transpose(1, 2)
