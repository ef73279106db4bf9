"""One forward on ranks against one alone: `python -m tests.engine.heads_program HEADS GUIDANCE SEQUENCE FOLDER`.

Importing torch takes seconds, so one process imports it and forks the ranks. Each compares the predictions of a tiny
transformer with so many heads, for even and uneven numbers of tokens, with its own without a group; exit code 0 when
all ranks found every bit equal.
"""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from diffusers import WanTransformer3DModel

from wan_ui.engine.parallel import join
from wan_ui.engine.split import GroupPlace, Split

CPU = torch.device("cpu")
SIZES = ((5, 16, 16), (3, 14, 18))  # latent frames, height and width: 320 and 189 tokens


def predict(transformer: WanTransformer3DModel, size: tuple[int, int, int]) -> torch.Tensor:
    generator = torch.Generator(CPU).manual_seed(sum(size))
    latents = torch.randn(1, 16, *size, generator=generator)
    text = torch.randn(1, 12, 16, generator=generator)
    with torch.no_grad():
        prediction: torch.Tensor = transformer(latents, torch.tensor([500]), text, return_dict=False)[0]
    return prediction


def render(heads: int, place: GroupPlace) -> bool:
    """Whether this rank's predictions in the group, and alone after it, equal those before it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=heads, attention_head_dim=12, text_dim=16, freq_dim=32, ffn_dim=64, num_layers=2
    ).eval()
    alone = [predict(transformer, size) for size in SIZES]
    group = join(place, CPU)
    with group.divided([transformer]):
        together = [predict(transformer, size) for size in SIZES]
    after = [predict(transformer, size) for size in SIZES]
    dist.barrier()
    group.close()
    if place.rank == 0:
        for size, before, divided, again in zip(SIZES, alone, together, after, strict=True):
            print(size, float((before - divided).abs().max()), float((before - again).abs().max()), flush=True)
    return all(map(torch.equal, alone, together)) and all(map(torch.equal, alone, after))


def main() -> int:
    heads, guidance, sequence = (int(text) for text in sys.argv[1:4])
    split, children = Split(guidance, sequence), []
    for rank in range(split.ranks):
        child = os.fork()
        if not child:
            try:
                os._exit(0 if render(heads, GroupPlace(split, rank, f"{sys.argv[4]}/rendezvous")) else 1)
            finally:
                os._exit(2)
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


if __name__ == "__main__":
    sys.exit(main())
