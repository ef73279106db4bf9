"""A transformer's timesteps, embedded once per distinct value and not once per token; it knows no scheduler.

TI2V 5B gives each token a timestep of its own: 0 where a first frame is given, t everywhere else. Embedding 27,280
tokens (1280×704×121) for two distinct values, or for one, is work that tells nothing new.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import WanTransformer3DModel

ROWS = 1024
"""Rows that are embedded at least, where there are so many tokens. Matrix products of few rows take other kernels (on a
CPU below 4), which add in another order and give other bits; a thousand rows take the same ones as all tokens, for a
few tenths of a millisecond on a GPU."""

Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]
"""What diffusers' condition embedder gives: the embedding, its projection, the text's and the image's tokens."""


@dataclass(frozen=True)
class Tokens:
    """Where a clip's tokens take their timestep from: N tokens, K distinct levels, R = min(N, ROWS) rows to embed.

    `each` (N,) is every token's factor on the timestep, in the mask's dtype, `levels` (K,) its distinct values.
    `asked` (R,) are the levels of the rows that are embedded, `found` (N,) which of these rows is each token's.
    """

    each: torch.Tensor
    levels: torch.Tensor
    asked: torch.Tensor
    found: torch.Tensor

    @classmethod
    def of(cls, mask: torch.Tensor, rows: int = ROWS) -> Tokens:
        """From a mask (1, C, T, h, w): 1 where latents are denoised, 0 where they are given. A token is 2 × 2 of it."""
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
    """Within it, a forward with `tokens.at(timestep)` embeds R timesteps and gives each token its own again.

    The forward comes out bit for bit as with a timestep for every token. Without the hooks it is right too: the
    timesteps that are passed on are those of the tokens.
    """
    shared = len(tokens.levels) == 1

    def before(module: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        asked = tokens.levels[tokens.asked] * timestep
        return (asked, *arguments[1:]), {**named, "timestep_seq_len": len(asked)}

    def after(module: torch.nn.Module, arguments: tuple[Any, ...], outputs: Outputs) -> Outputs:
        embedding, projection, text, image = outputs
        if shared:
            return embedding[:, 0], projection[:, 0], text, image
        return embedding[:, tokens.found], projection[:, tokens.found], text, image

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
