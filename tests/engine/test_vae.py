"""The VAE with its passes joined computes diffusers' own bits, and is changed once."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResidualBlock, WanRMS_norm
from torch.nn import functional as F

from tests.golden_cases import CHECKPOINTS
from wan_ui.checkpoints.folders import Checkpoints
from wan_ui.engine import kernels
from wan_ui.engine.vae import use_kernels
from wan_ui.models import MODELS

pytestmark = pytest.mark.slow

DTYPES = (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model", ["wan21_1b", "wan22_5b"])
@torch.no_grad()
def test_frames_and_latents_are_diffusers_own(model: str, dtype: torch.dtype) -> None:
    folder = Checkpoints(CHECKPOINTS).component(MODELS[model], "vae").folder
    vae = AutoencoderKLWan.from_pretrained(folder, torch_dtype=dtype).eval()
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, vae.config.z_dim, 3, 4, 6, generator=generator).to(dtype)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        frames: torch.Tensor = vae.decode(latents, return_dict=False)[0]
        return frames, vae.encode(frames).latent_dist.mean

    plain, names = both(), list(vae.state_dict())
    for _ in range(2):
        use_kernels(vae)
        assert all(map(torch.equal, both(), plain))
        assert list(vae.state_dict()) == names
    blocks = [module for module in vae.modules() if isinstance(module, WanResidualBlock)]
    assert blocks and all(isinstance(block.nonlinearity, torch.nn.Identity) for block in blocks)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("silu", [False, True])
@torch.no_grad()
def test_the_norm_is_diffusers_own(silu: bool, dtype: torch.dtype) -> None:
    norm = WanRMS_norm(8, images=False).to(dtype)
    norm.gamma.normal_(generator=torch.Generator().manual_seed(1))
    hidden = torch.randn(1, 8, 2, 3, 5, generator=torch.Generator().manual_seed(2)).to(dtype)
    hidden[:, :, 0, 0, 0] = 0
    expected = norm(hidden)
    expected = F.silu(expected) if silu else expected
    assert kernels.same_bits(kernels.eager_channel_norm(hidden, norm.gamma, norm.scale, silu), expected)


@pytest.mark.parametrize("padding", [(1, 1, 1, 1, 2, 0), (1, 1, 1, 1, 0, 0), (0, 0, 0, 0, 1, 0), (0,) * 6])
def test_zeros_around_a_frame_may_be_left_to_the_convolution(padding: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(1, 4, 3, 6, 7, generator=generator), torch.randn(5, 4, 1, 3, 3, generator=generator)
    arguments = hidden, weight, None, (1, 1, 1), padding
    found, expected = kernels.padded_convolution(*arguments), kernels.eager_padded_convolution(*arguments)
    torch.testing.assert_close(found, expected)
