"""One of four ranks that render golden cases on the CPU, in every division: in two groups of two, then in one of four.

Ranks 0 and 1 share the guidance and ranks 2 and 3 the sequence, at the same time; then all four share both. The first
rank of a group writes its frames; rank 0 also renders alone, having left its groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.golden_cases import CHECKPOINTS, LORAS, Case, cases
from wan_ui import Engine
from wan_ui.engine.split import GroupPlace, Split

RANKS = 4
SPLITS = (Split(2, 1), Split(1, 2), Split(2, 2))
ALONE = "alone"


def places(rank: int, rendezvous: Path) -> list[GroupPlace]:
    """The places of a rank in the groups of one case, one after another."""
    pair = SPLITS[rank // 2]
    return [
        GroupPlace(pair, rank % 2, f"{rendezvous} {pair}"),
        GroupPlace(SPLITS[2], rank, f"{rendezvous} {SPLITS[2]}"),
    ]


def render_cases(rank: int, folder: Path, names: Sequence[str], alone: Sequence[str]) -> None:
    """Writes `{name} {division}.npz` into the folder for each case of `names`, and for those of `alone` without one."""
    torch.set_num_threads(1)
    engine = Engine(CHECKPOINTS, LORAS, "cpu")

    def frames(case: Case, split: Split) -> Any:
        (clip,) = engine.generate(case.request)
        assert clip.metadata.get("split", "none") == str(split)
        return clip.frames

    for case in cases():
        if case.name not in names:
            continue
        for place in places(rank, folder / case.name):
            engine.join(place)
            rendered = frames(case, place.split)
            engine.leave()
            if not place.rank:
                np.savez(folder / f"{case.name} {place.split}.npz", frames=rendered)
        if not rank and case.name in alone:
            np.savez(folder / f"{case.name} {ALONE}.npz", frames=frames(case, Split()))
    engine.close()
