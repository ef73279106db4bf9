"""A server that is made to be killed: `python -m tests.pool.ray_program DATA_DIR ADDRESS` prints its actor's processes.

It renders on the first GPU of the cluster, and is in the middle of a clip.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.golden_cases import CHECKPOINTS
from tests.jobs.helpers import body
from tests.pool.helpers import FAKE_PROGRAM, options
from wan_ui.engine.result import Progress, ignore_progress
from wan_ui.pool.checkpoint_prints import CheckpointPrints, sources_of
from wan_ui.pool.ray_cluster import connect
from wan_ui.pool.ray_slots import ClusterGpu, RaySlot, launch_actor
from wan_ui.request import parse, resolve


def main() -> None:
    server = replace(options(Path(sys.argv[1])), models_dir=CHECKPOINTS)
    client = connect(sys.argv[2], server)
    node = next(node for node in client.nodes() if node.gpus)
    gpu = ClusterGpu(node.id, 0, "GPU")
    launch = partial(launch_actor, program=FAKE_PROGRAM)
    slot = RaySlot(gpu, server, CheckpointPrints(sources_of(server)), lambda generation: (), launch=launch)
    (generation,) = resolve(parse(body(1)), store_image=str)
    clip = slot.render(generation, ignore_progress, lambda: None)

    def on_progress(progress: Progress) -> None:
        if progress.step == 1:
            print(clip.metadata["pid"], flush=True)
            threading.Event().wait()

    slot.render(replace(generation, prompt="hang"), on_progress, lambda: None)


if __name__ == "__main__":
    main()
