"""A forward whose timesteps are embedded once per distinct value is diffusers' own, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel

from wan_ui.engine.conditioning import ConditionedNoise
from wan_ui.engine.sampling import Guidance, predict
from wan_ui.engine.timesteps import ROWS, Tokens, embedded_once

TIMESTEPS = (999.0, 334.5)
LARGE = (1, 16, 5, 34, 32)  # latents of 5 × 17 × 16 = 1360 tokens, more than are embedded
SMALL = (1, 16, 2, 6, 4)


def transformer(heads: int, width: int, layers: int, dtype: torch.dtype) -> WanTransformer3DModel:
    """Random weights under diffusers' own rule for what stays float32."""
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=width,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        ffn_dim=2 * heads * width,
        num_layers=layers,
    )
    for name, part in model.named_parameters():
        if not any(kept in name for kept in WanTransformer3DModel._keep_in_fp32_modules):
            part.data = part.data.to(dtype)
    return model.eval().requires_grad_(False)


def start(shape: tuple[int, ...], dtype: torch.dtype, image: bool) -> ConditionedNoise:
    """As a model with per-token timesteps starts: a float32 mask of ones, or one in the model's dtype with zeros."""
    mask = torch.ones(shape, dtype=dtype if image else torch.float32)
    if image:
        mask[:, :, :1] = 0
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return ConditionedNoise(latents, mask=mask)


def every_token(
    model: WanTransformer3DModel, begin: ConditionedNoise, timestep: torch.Tensor, guidance: Guidance
) -> Any:
    """diffusers' own forward, as its image-to-video pipeline calls it."""
    assert begin.mask is not None
    steps = (begin.mask[0][0][:, ::2, ::2] * timestep).flatten().unsqueeze(0)
    return model(begin.latents.to(guidance.positive.dtype), steps, guidance.positive, return_dict=False)[0]


@pytest.mark.parametrize("image", [False, True], ids=["text", "image"])
@pytest.mark.parametrize(
    ("heads", "width", "shape", "dtype"),
    [
        (2, 24, LARGE, torch.float32),
        (2, 24, SMALL, torch.float32),
        (2, 24, SMALL, torch.bfloat16),
        pytest.param(2, 24, LARGE, torch.bfloat16, marks=pytest.mark.slow),
        pytest.param(4, 128, LARGE, torch.float32, marks=pytest.mark.slow),
    ],
)
def test_a_forward_is_diffusers_own(
    heads: int, width: int, shape: tuple[int, ...], dtype: torch.dtype, image: bool
) -> None:
    model, begin = transformer(heads, width, 2, dtype), start(shape, dtype, image)
    text = torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(2)).to(dtype)
    guidance = Guidance(text, None, 1.0)
    with torch.no_grad():
        for value in TIMESTEPS:
            timestep = torch.tensor(value)
            ours = predict(model, begin, begin.latents.to(dtype), timestep, guidance)
            assert torch.equal(ours, every_token(model, begin, timestep, guidance))


def test_a_lora_on_the_embedder_changes_nothing_of_this() -> None:
    model, begin = transformer(2, 24, 1, torch.float32), start(LARGE, torch.float32, image=True)
    generator = torch.Generator().manual_seed(3)
    state = {}
    for module in ("time_embedder.linear_1", "time_embedder.linear_2", "time_proj"):
        out, into = model.get_submodule(f"condition_embedder.{module}").weight.shape
        state[f"condition_embedder.{module}.lora_A.weight"] = torch.randn(4, into, generator=generator)
        state[f"condition_embedder.{module}.lora_B.weight"] = torch.randn(out, 4, generator=generator)
    guidance = Guidance(torch.zeros(1, 8, 32), None, 1.0)
    with torch.no_grad():
        disabled = predict(model, begin, begin.latents, torch.tensor(700.0), guidance)
        model.load_lora_adapter(state, prefix=None, adapter_name="a")
        ours = predict(model, begin, begin.latents, torch.tensor(700.0), guidance)
        assert torch.equal(ours, every_token(model, begin, torch.tensor(700.0), guidance))
    assert not torch.equal(ours, disabled)


@pytest.mark.parametrize("image", [False, True], ids=["text", "image"])
def test_only_so_many_rows_are_embedded(image: bool) -> None:
    model, begin = transformer(2, 24, 1, torch.float32), start(LARGE, torch.float32, image)
    rows: list[int] = []
    model.condition_embedder.time_proj.register_forward_hook(lambda module, given, made: rows.append(made.shape[1]))
    with torch.no_grad():
        guidance = Guidance(torch.zeros(1, 8, 32), torch.ones(1, 8, 32), 2.0)
        predict(model, begin, begin.latents, torch.tensor(5.0), guidance)
    assert rows == [ROWS, ROWS]
    assert begin.tokens is begin.tokens


def test_a_failed_forward_leaves_the_transformer_as_it_was() -> None:
    model, begin = transformer(2, 24, 1, torch.float32), start(SMALL, torch.float32, image=True)
    guidance = Guidance(torch.zeros(1, 8, 7), None, 1.0)
    with pytest.raises(RuntimeError), torch.no_grad():
        predict(model, begin, begin.latents, torch.tensor(5.0), guidance)
    right = replace(guidance, positive=torch.zeros(1, 8, 32))
    with torch.no_grad():
        assert every_token(model, begin, torch.tensor(5.0), right).shape == SMALL


def test_tokens_of_a_mask() -> None:
    begin = start((1, 3, 3, 4, 8), torch.bfloat16, image=True)
    assert begin.mask is not None
    few = Tokens.of(begin.mask, rows=6)
    assert few.levels.tolist() == [0, 1]
    assert few.embedded.tolist() == [0, 1] * 3
    assert few.row_of.tolist() == [0] * 8 + [1] * 16
    assert few.at(torch.tensor(7.0)).tolist() == [[0] * 8 + [7] * 16]
    all_of_them = Tokens.of(begin.mask)
    assert all_of_them.row_of.tolist() == list(range(24))
    assert torch.equal(all_of_them.levels[all_of_them.embedded], begin.mask[0][0][:, ::2, ::2].flatten())
    text = start((1, 3, 3, 4, 8), torch.float32, image=False)
    assert text.tokens is not None
    assert text.tokens.at(torch.tensor(7)).tolist() == [7.0]


def test_the_timesteps_stand_without_the_hooks() -> None:
    """Whoever calls the transformer with `Tokens.at` alone gets the same."""
    model, begin = transformer(2, 24, 1, torch.float32), start(LARGE, torch.float32, image=True)
    assert begin.tokens is not None
    guidance = Guidance(torch.zeros(1, 8, 32), None, 1.0)
    timestep = torch.tensor(300.0)
    with torch.no_grad():
        plain = model(begin.latents, begin.tokens.at(timestep), guidance.positive, return_dict=False)[0]
        with embedded_once(model, begin.tokens, timestep):
            ours = model(begin.latents, begin.tokens.at(timestep), guidance.positive, return_dict=False)[0]
    assert torch.equal(plain, ours)
