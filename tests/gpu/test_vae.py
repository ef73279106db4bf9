"""The VAE with kernels of our own on a CUDA GPU: diffusers' bits at full width, in less time.

The printed seconds belong into docs/performance.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanRMS_norm

from tests.gpu.full_size import vae_config
from wan_ui.engine import kernels
from wan_ui.engine.kernels import same_bits, verified
from wan_ui.engine.vae import use_kernels

pytestmark = pytest.mark.gpu
CLIPS = {"8×": ({}, (16, 21, 60, 104)), "16×": (vae_config("wan22_5b"), (48, 5, 44, 80))}  # 832×480×81 and 1280×704×17


def seconds(work: Callable[[], torch.Tensor]) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


@pytest.mark.parametrize("compression", CLIPS)
@torch.no_grad()
def test_frames_and_latents_are_diffusers_own(compression: str) -> None:
    config, shape = CLIPS[compression]
    generator = torch.Generator("cuda").manual_seed(0)
    torch.manual_seed(0)
    with torch.device("cuda"):
        vae = AutoencoderKLWan(**config).to(torch.bfloat16).eval()
    for module in vae.modules():
        if isinstance(module, WanRMS_norm):
            module.gamma.normal_(1, 0.2, generator=generator)
    latents = torch.randn(1, *shape, generator=generator, device="cuda").to(torch.bfloat16)

    def decode() -> torch.Tensor:
        frames: torch.Tensor = vae.decode(latents, return_dict=False)[0]
        return frames

    plain = decode()
    first = plain[:, :, :5].contiguous()
    encoded = vae.encode(first).latent_dist.mean
    before = seconds(decode)
    use_kernels(vae)
    assert torch.equal(decode(), plain)
    assert torch.equal(vae.encode(first).latent_dist.mean, encoded)
    after = seconds(decode)
    print(f"\nVAE {compression}, {tuple(plain.shape)}: {before:.3f} s, with kernels {after:.3f} s")
    assert verified("channel_norm").refused is None
    assert verified("padded_convolution").refused is None


def test_silu_of_every_bfloat16() -> None:
    """Ones over so many channels are 1 after the norm, and its weight takes each of the numbers."""
    every = torch.arange(1 << 16, device="cuda").to(torch.int16).view(torch.bfloat16)
    every = torch.where(every.isfinite(), every, 1.0)
    hidden = torch.ones(1, len(every), 1, 1, 2, device="cuda", dtype=torch.bfloat16)
    gamma = every.reshape(-1, 1, 1, 1)
    scale = len(every) ** 0.5  # 256: of so many ones, each is 1/256 of the norm
    assert verified("channel_norm").refused is None
    result = verified("channel_norm")(hidden, gamma, scale, True)
    assert same_bits(result, kernels.eager_channel_norm(hidden, gamma, scale, True))
    assert verified("channel_norm").refused is None
    assert int(result[:, :, 0, 0, 0].isfinite().sum()) > 60_000
