"""One rank of a group on the CPU: `python -m tests.engine.parallel_program STORE GUIDANCE SEQUENCE RANK OUT CASE…`.

Renders golden cases as the others of its group do; rank 0 writes their frames and splits to OUT. In between it also
leaves the group once, and renders the first case alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from tests.golden_cases import CHECKPOINTS, LORAS, cases
from wan_ui import Engine
from wan_ui.engine.parallel import Group
from wan_ui.engine.split import Split


def main() -> None:
    store, guidance, sequence, rank, out, *names = sys.argv[1:]
    torch.set_num_threads(1)
    split = Split(int(guidance), int(sequence))
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=split.ranks)
    engine = Engine(CHECKPOINTS, LORAS, "cpu", group=Group(split, torch.device("cpu")))
    frames: dict[str, Any] = {}
    splits: dict[str, str] = {}
    for case in cases():
        if case.name in names:
            (clip,) = engine.generate(case.request)
            frames[case.name], splits[case.name] = clip.frames, clip.metadata["split"]
    if rank == "0":
        np.savez(Path(out), **frames)
        Path(out).with_suffix(".json").write_text(json.dumps(splits))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
