"""The attention kernel is named by what PyTorch really calls, and logged once."""

from __future__ import annotations

import logging

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch.nn.attention import SDPBackend, sdpa_kernel

from wan_ui.engine import attention

CPU = torch.device("cpu")


def transformer(heads: int, backend: str | None = None) -> WanTransformer3DModel:
    """With a number of heads of its own: a kernel is asked for once for each."""
    model = WanTransformer3DModel(
        num_attention_heads=heads, attention_head_dim=16, text_dim=8, ffn_dim=16, num_layers=1, freq_dim=8
    )
    if backend is not None:
        model.set_attention_backend(backend)
    return model


def test_the_kernel_is_named_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "wan_ui.engine.attention"):
        names = {attention.kernel(transformer(3), CPU, torch.float32) for _ in range(3)}
    assert names == {"PyTorch's CPU attention"}
    assert [record.getMessage() for record in caplog.records] == ["attention runs on PyTorch's CPU attention"]


def test_another_choice_has_another_name() -> None:
    with sdpa_kernel(SDPBackend.MATH):
        assert attention.kernel(transformer(5), CPU, torch.float32) == attention.PLAIN
    assert attention.kernel(transformer(7, "_native_math"), CPU, torch.float32) == attention.PLAIN


def test_a_kernel_that_is_not_known_goes_by_its_own_name() -> None:
    assert attention.kernel_name(["aten::permute.default", "flash_attn_3::fwd.default"]) == "flash_attn_3::fwd"
    assert attention.kernel_name(["aten::_scaled_dot_product_cudnn_attention"]) == "cuDNN"
    assert attention.kernel_name(["aten::bmm", "aten::_softmax"]) == attention.PLAIN
