"""5B's forward at full width on a CUDA GPU: timesteps embedded once per distinct value, the same bits, in less time.

The printed figures belong into docs/performance.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel

from tests.gpu.full_size import transformer_config
from wan_ui.engine import timesteps
from wan_ui.engine.conditioning import ConditionedNoise
from wan_ui.engine.sampling import Guidance, predict
from wan_ui.engine.timesteps import Tokens, embedded_once

pytestmark = pytest.mark.gpu
SHAPE = (1, 48, 31, 44, 80)  # the latents of 1280×704×121: 27,280 tokens
TIMESTEPS = (999.0, 834.0, 500.0, 250.0, 3.0)
ROWS_TRIED = (2, 4, 64, 256, 1024, 4096)


@pytest.fixture(scope="module")
def model() -> WanTransformer3DModel:
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = WanTransformer3DModel(**transformer_config("wan22_5b", 2))
    for name, part in model.named_parameters():
        if not any(kept in name for kept in WanTransformer3DModel._keep_in_fp32_modules):
            part.data = part.data.to(torch.bfloat16)
    return model.eval().requires_grad_(False)


def begin(image: bool) -> ConditionedNoise:
    mask = torch.ones(SHAPE, device="cuda", dtype=torch.bfloat16 if image else torch.float32)
    if image:
        mask[:, :, :1] = 0
    return ConditionedNoise(torch.randn(SHAPE, device="cuda"), mask=mask)


def every_token(
    model: WanTransformer3DModel, start: ConditionedNoise, timestep: torch.Tensor, text: torch.Tensor
) -> Any:
    """diffusers' own forward with a timestep for each token."""
    assert start.mask is not None
    steps = (start.mask[0][0][:, ::2, ::2] * timestep).flatten().unsqueeze(0)
    return model(start.latents.to(torch.bfloat16), steps, text, return_dict=False)[0]


def milliseconds(work: Callable[[], Any], times: int = 5) -> float:
    work()
    torch.cuda.synchronize()
    since = time.perf_counter()
    for _ in range(times):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - since) / times * 1e3


@pytest.mark.parametrize("whole_bf16", [False, True], ids=["reference", "preview"])
@pytest.mark.parametrize("image", [False, True], ids=["text", "image"])
def test_a_forward_is_diffusers_own(model: WanTransformer3DModel, image: bool, whole_bf16: bool) -> None:
    kept = {name: part.data for name, part in (*model.named_parameters(), *model.named_buffers())}
    start = begin(image)
    text = torch.randn(1, 512, 4096, device="cuda").to(torch.bfloat16)
    guidance = Guidance(text, None, 1.0)
    try:
        if whole_bf16:
            for part in (*model.parameters(), *model.buffers()):
                part.data = part.data.to(torch.bfloat16)
        with torch.no_grad():
            for value in TIMESTEPS:
                timestep = torch.tensor(value, device="cuda")
                ours = predict(model, start, start.latents.to(torch.bfloat16), timestep, guidance)
                assert torch.equal(ours, every_token(model, start, timestep, text)), value
            plain = milliseconds(lambda: every_token(model, start, timestep, text))
            once = milliseconds(lambda: predict(model, start, start.latents.to(torch.bfloat16), timestep, guidance))
        print(f"\n2 layers of 5B, 1280×704×121, {'image' if image else 'text'}: {plain:.1f} ms, once {once:.1f} ms")
    finally:
        for name, part in (*model.named_parameters(), *model.named_buffers()):
            part.data = kept[name]


def test_how_many_rows_are_enough(model: WanTransformer3DModel) -> None:
    """Prints which numbers of embedded rows give the bits of all 27,280; `ROWS` must be one of them."""
    start = begin(image=True)
    assert start.mask is not None
    text = torch.randn(1, 512, 4096, device="cuda").to(torch.bfloat16)
    same: dict[int, int] = {}
    with torch.no_grad():
        for value in TIMESTEPS:
            timestep = torch.tensor(value, device="cuda")
            every = (start.mask[0][0][:, ::2, ::2] * timestep).flatten()
            whole = model.condition_embedder(every, text, None, timestep_seq_len=len(every))[:2]
            for rows in ROWS_TRIED:
                tokens = Tokens.of(start.mask, rows)
                with embedded_once(model, tokens, timestep):
                    some = model.condition_embedder(every, text, None, timestep_seq_len=len(every))[:2]
                equal = all(torch.equal(a, b) for a, b in zip(whole, some, strict=True))
                same[rows] = same.get(rows, 0) + equal
    print(f"\nequal at so many of {len(TIMESTEPS)} timesteps, by rows: {same}")
    assert same[timesteps.ROWS] == len(TIMESTEPS)
