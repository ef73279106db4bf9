"""Self-attention with tokens divided among ranks, and the exchange of tokens against heads around it.

Each of n ranks has some of the N tokens with all H heads. The all-to-all before attention gives it all tokens with some
of the heads, the one after it brings the tokens back (Ulysses, Jacobs et al., 2023, arXiv 2309.14509).

Where tokens and heads divide evenly, all parts have one size, which follows from the tensor: a compiled graph serves
every clip. Else the parts have different lengths, which follow from N, H and n, so the ranks need not ask each other:
rank r has the heads of `tensor_split`, of 12 heads over 8 ranks 2 on the first four and 1 on the others. (diffusers'
exchange for uneven parts pads the heads of the last rank alone, and refuses that: 16 heads of which 4 are padding leave
it none.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from diffusers.models.attention_dispatch import dispatch_attention_fn

from wan_ui.engine.kernels.operators import rms_norm_rotary

WORD = 8  # bytes that are copied as one element


def part_sizes(count: int, parts: int) -> tuple[int, ...]:
    """How many of `count` things each part has, as `torch.tensor_split` divides them: the first parts have one more."""
    return tuple(count // parts + (part < count % parts) for part in range(parts))


@dataclass(frozen=True)
class EvenExchange:
    """The exchange among `parts` ranks that have equally many tokens and heads."""

    group: dist.ProcessGroup
    parts: int

    def to_all_tokens(self, own: torch.Tensor) -> torch.Tensor:
        """(1, own tokens, all heads, d) to (1, all tokens, own heads, d)."""
        pieces = own.view(-1, self.parts, own.shape[2] // self.parts, own.shape[3]).transpose(0, 1)
        return self._exchange(_in_order(pieces)).flatten(0, 1).unsqueeze(0)

    def to_all_heads(self, own: torch.Tensor) -> torch.Tensor:
        """(1, all tokens, own heads, d) to (1, own tokens, all heads, d)."""
        received = self._exchange(own.contiguous().view(self.parts, -1, *own.shape[2:]))
        return torch.cat(received.unbind(0), dim=1).unsqueeze(0)

    def _exchange(self, pieces: torch.Tensor) -> torch.Tensor:
        """The r-th of the pieces (parts, …) goes to rank r; what is received is as large."""
        return _arrived(funcol.all_to_all_single(pieces, None, None, self.group))


@dataclass(frozen=True)
class UnevenExchange:
    """The exchange of one rank, `part`: `tokens` and `heads` of all ranks, in the order of their parts."""

    group: dist.ProcessGroup
    part: int
    tokens: tuple[int, ...]
    heads: tuple[int, ...]

    def to_all_tokens(self, own: torch.Tensor) -> torch.Tensor:
        """(1, own tokens, all heads, d) to (1, all tokens, own heads, d)."""
        width, here = own.shape[-1], self.heads[self.part]
        parts = [heads.reshape(-1) for heads in torch.split(own[0], list(self.heads), dim=1)]
        received = self._exchange(
            torch.cat(parts),
            [self.tokens[self.part] * heads * width for heads in self.heads],
            [tokens * here * width for tokens in self.tokens],
        )
        return received.view(1, -1, here, width) if here else own.new_empty(1, sum(self.tokens), 0, width)

    def to_all_heads(self, own: torch.Tensor) -> torch.Tensor:
        """(1, all tokens, own heads, d) to (1, own tokens, all heads, d)."""
        width, tokens, here = own.shape[-1], self.tokens[self.part], self.heads[self.part]
        sizes = [tokens * heads * width for heads in self.heads]
        received = self._exchange(own.reshape(-1), [count * here * width for count in self.tokens], sizes)
        pieces = zip(torch.split(received, sizes), self.heads, strict=True)
        return torch.cat([piece.view(tokens, heads, width) for piece, heads in pieces], dim=1).unsqueeze(0)

    def _exchange(self, values: torch.Tensor, sent: Sequence[int], received: Sequence[int]) -> torch.Tensor:
        """The r-th of the received pieces comes from rank r, and the r-th of the sent ones goes there."""
        return _arrived(funcol.all_to_all_single(values.contiguous(), list(received), list(sent), self.group))


def _arrived(pending: torch.Tensor) -> torch.Tensor:
    arrived: torch.Tensor = funcol.wait_tensor(pending)  # type: ignore[no-untyped-call]
    return arrived


def _in_order(pieces: torch.Tensor) -> torch.Tensor:
    """The same values one behind the other in memory.

    They are copied as integers of 8 bytes where they fit: PyTorch's copy of a tensor with gaps takes as long for an
    element of 2 bytes.
    """
    if pieces.shape[-1] * pieces.element_size() % WORD:
        return pieces.contiguous()
    return pieces.view(torch.int64).contiguous().view(pieces.dtype)


class DividedAttention:
    """Takes the place of diffusers' processor of a Wan block's self-attention while the tokens are divided.

    `original` is that processor. The arithmetic is diffusers' own, with the exchange around the attention.
    """

    def __init__(self, original: Any, exchange: EvenExchange | UnevenExchange) -> None:
        self.original = original
        self._exchange = exchange
        self._attention_backend = original._attention_backend

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The block's self-attention of this rank's tokens, (1, own tokens, channels)."""
        if encoder_hidden_states is not None or attention_mask is not None or rotary_emb is None:
            raise ValueError("only a Wan block's self-attention is divided")
        query, key = (
            rms_norm_rotary(project(hidden_states), norm.weight, norm.eps, *rotary_emb)
            for project, norm in ((attn.to_q, attn.norm_q), (attn.to_k, attn.norm_k))
        )
        query, key, value = (
            self._exchange.to_all_tokens(each.unflatten(2, (attn.heads, -1)))
            for each in (query, key, attn.to_v(hidden_states))
        )
        attended = query  # a rank without heads
        if query.shape[2]:
            attended = dispatch_attention_fn(query, key, value, backend=self._attention_backend)
        output: torch.Tensor = attn.to_out[0](self._exchange.to_all_heads(attended).flatten(2, 3).type_as(query))
        return output
