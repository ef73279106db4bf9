"""One rank with compiled blocks that joins groups and leaves them again and again, on the CPU.

The first rank has rendered before, alone, and the second is made anew in between, as the processes of two GPUs are when
they also render by themselves. Each compares the predictions of a tiny transformer, for even and uneven numbers of
tokens, with its own eager ones without a group.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch._dynamo
from diffusers import WanTransformer3DModel

from tests.engine.rank_heads import CPU, SIZES, predict
from wan_ui.engine.compile import CompiledBlocks
from wan_ui.engine.parallel import Connections
from wan_ui.engine.split import GroupPlace, Split
from wan_ui.errors import ExchangeFailed

RENEWED = 1  # before which of the groups the second rank is made anew


def compiled(transformer: WanTransformer3DModel) -> CompiledBlocks:
    blocks = CompiledBlocks("exact")
    blocks.install(transformer)
    return blocks


def join_again_and_again(rank: int, folder: str, splits: Sequence[Split]) -> None:
    """Asserts that all predictions of this rank have the bits of eager ones without a group.

    The first rank prints how many graphs it has built after each group.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=4, attention_head_dim=12, text_dim=16, freq_dim=32, ffn_dim=64, num_layers=5
    ).eval()
    expected = [predict(transformer, size) for size in SIZES]
    blocks = compiled(transformer)
    is_equal = True
    if not rank:
        blocks.adapters_changed(transformer)
        is_equal = all(map(torch.equal, expected, [predict(transformer, size) for size in SIZES]))
    graphs = []
    for time, split in enumerate(splits):
        if rank >= split.ranks:
            continue
        if rank == 1 and time == RENEWED:
            blocks.remove(transformer)
            blocks = compiled(transformer)
        place = GroupPlace(split, rank, f"{folder}/rendezvous{time}")
        connections = Connections(place, CPU)
        group = connections.group(place)
        with group.divided([transformer]), blocks.checked_together(group.all_agree, str(split)):
            together = [predict(transformer, size) for size in SIZES]
        connections.close()
        is_equal = is_equal and all(map(torch.equal, expected, together)) and blocks.refused is None
        graphs.append(blocks.graphs)
        if not rank:
            alone = [predict(transformer, size) for size in SIZES]
            assert all(map(torch.equal, expected, alone)) and blocks.graphs == graphs[-1]  # as before the group
    if not rank:
        print(*graphs, flush=True)
    assert is_equal and (rank > 1 or misses_a_rank(rank, folder))


def misses_a_rank(rank: int, folder: str) -> bool:
    """Whether the first of two ranks notices that the second sends it nothing."""
    place = GroupPlace(Split(2), rank, f"{folder}/alone")
    group = Connections(place, CPU).group(place)
    try:
        if not rank:
            group.check(seconds=0.1)
    except ExchangeFailed:
        return group.all_agree(True)
    return bool(rank) and group.all_agree(True)
