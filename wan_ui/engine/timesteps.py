"""Per-token timesteps, embedded once per distinct value instead of once per token.

TI2V 5B gives each token a timestep of its own: 0 where a first frame is given, t everywhere else. Of 27,280 tokens
(1280×704×121) all but two embeddings, or all but one, would repeat another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import WanTransformer3DModel

ROWS = 1024
"""Timesteps embedded at least, where there are so many tokens. Matrix products of few rows use other kernels (on a CPU
below 4 rows), which sum in another order and give other bits; a thousand rows use the same kernels as all tokens do,
for a few tenths of a millisecond on a GPU."""

Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]
"""What diffusers' condition embedder returns: time embedding, its projection, text tokens and image tokens."""


@dataclass(frozen=True)
class Tokens:
    """The timesteps of a clip's tokens: N tokens, K distinct levels, R = min(N, ROWS) embedded rows.

    `each` (N,) is every token's factor on the timestep, in the mask's dtype; `levels` (K,) are its distinct values.
    `embedded` (R,) indexes the level of each embedded row; `row_of` (N,) indexes the embedded row of each token.
    """

    each: torch.Tensor
    levels: torch.Tensor
    embedded: torch.Tensor
    row_of: torch.Tensor

    @classmethod
    def of(cls, mask: torch.Tensor, rows: int = ROWS) -> Tokens:
        """From a mask (1, C, T, h, w): 1 where latents are denoised, 0 where they are given.

        A token is a patch of 1 × 2 × 2 latents, and the mask is the same in all of it: every second value will do.
        """
        each = mask[0][0][:, ::2, ::2].flatten()
        distinct, which = torch.unique(each.float(), return_inverse=True)
        levels = distinct.to(each.dtype)
        if len(each) <= rows:
            return cls(each, levels, which, torch.arange(len(each), device=each.device))
        return cls(each, levels, torch.arange(max(rows, len(levels)), device=each.device) % len(levels), which)

    def at(self, timestep: torch.Tensor) -> torch.Tensor:
        """The transformer's timesteps at a step (0-dim): (1,) where all tokens share it, else (1, N)."""
        return (self.levels if len(self.levels) == 1 else self.each.unsqueeze(0)) * timestep


@contextmanager
def embedded_once(transformer: WanTransformer3DModel, tokens: Tokens, timestep: torch.Tensor) -> Iterator[None]:
    """Within the block, a forward with `tokens.at(timestep)` embeds R timesteps and expands them to N tokens.

    The forward has the same bits as one with a timestep for every token. Without the hooks it is correct too, since
    the timesteps passed to the transformer are those of the tokens.
    """
    shared = len(tokens.levels) == 1

    def before(module: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        timesteps = tokens.levels[tokens.embedded] * timestep  # (R,) in the mask's dtype, as (N,) would be
        return (timesteps, *arguments[1:]), {**named, "timestep_seq_len": len(timesteps)}

    def after(module: torch.nn.Module, arguments: tuple[Any, ...], outputs: Outputs) -> Outputs:
        embedding, projection, text, image = outputs  # (1, R, hidden), (1, R, 6 × hidden), …
        if shared:
            return embedding[:, 0], projection[:, 0], text, image
        return embedding[:, tokens.row_of], projection[:, tokens.row_of], text, image

    embedder = transformer.condition_embedder
    hooks = (
        embedder.register_forward_pre_hook(before, with_kwargs=True),
        embedder.register_forward_hook(after, prepend=True),  # before what divides tokens among GPUs
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
