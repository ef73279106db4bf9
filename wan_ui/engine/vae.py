"""The VAE's passes between its large convolutions, in fewer kernels and copies on CUDA, with the same bits.

diffusers normalizes in nine passes over memory and pads every convolution's input in a copy. Here a norm and the SiLU
behind it are two passes, and cuDNN pads by itself. Each operation is compared with diffusers' own at the first use of
every shape, and left to it where a bit differs, see `kernels.Verified`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResidualBlock, WanRMS_norm

from wan_ui.engine.kernels import verified


def use_kernels(vae: AutoencoderKLWan) -> None:
    """Makes the VAE compute with them from now on; nothing changes where that was done before."""
    for coder in (vae.encoder, vae.decoder):
        if isinstance(coder.nonlinearity, torch.nn.SiLU):
            _fuse(coder, coder.norm_out)
    for module in vae.modules():
        if isinstance(module, WanResidualBlock) and isinstance(module.nonlinearity, torch.nn.SiLU):
            _fuse(module, module.norm1, module.norm2)
        elif isinstance(module, WanCausalConv3d):
            _replace_forward(module, partial(_convolve, module))


def _fuse(module: torch.nn.Module, *norms: WanRMS_norm) -> None:
    """Lets norms apply the SiLU that the module applies behind each of them."""
    if all(norm.channel_first and not isinstance(norm.bias, torch.nn.Parameter) for norm in norms):
        for norm in norms:
            _replace_forward(norm, partial(_normalize, norm))
        module.nonlinearity = torch.nn.Identity()


def _replace_forward(module: Any, forward: Callable[..., torch.Tensor]) -> None:
    module.forward = forward


def _normalize(norm: WanRMS_norm, hidden: torch.Tensor) -> torch.Tensor:
    """The norm of `hidden`'s channels, and SiLU."""
    return verified("channel_norm")(hidden, norm.gamma, norm.scale, True)


def _convolve(convolution: WanCausalConv3d, hidden: torch.Tensor, earlier: torch.Tensor | None = None) -> torch.Tensor:
    """The convolution of frames, of which `earlier` ones precede them and zeros those.

    Its own padding is six numbers, for both ends of width, height and time; there is none behind the last frame.
    """
    padding = list(convolution._padding)
    if earlier is not None and padding[4] > 0:
        hidden = torch.cat([earlier.to(hidden.device), hidden], dim=2)
        padding[4] -= earlier.shape[2]
    convolve = verified("padded_convolution")
    return convolve(hidden, convolution.weight, convolution.bias, convolution.stride, tuple(padding))
