"""A Ray cluster of several machines on this one, with GPUs that do not exist, over the fake engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.golden_cases import CHECKPOINTS
from tests.pool.helpers import FAKE_PROGRAM
from wan_ui.checkpoints.sources import CheckpointSources
from wan_ui.config import Settings
from wan_ui.jobs.dispatcher import Dispatcher
from wan_ui.pool.checkpoint_prints import sources_of
from wan_ui.pool.cluster import Cluster
from wan_ui.pool.messages import EngineOptions
from wan_ui.pool.processes import PROGRAM
from wan_ui.pool.ray_cluster import join_cluster
from wan_ui.request import Generation

ROOT = Path(__file__).parents[2]
STARTS = 4  # of a machine, at most
LONG = 240.0  # seconds for what starts several processes on a busy machine
SMALL: Mapping[str, Any] = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 << 20}


@contextmanager
def ray_machines(data_dir: Path, gpus_of_head: int) -> Iterator[Any]:
    """A `ray.cluster_utils.Cluster` with a head; its machines keep their files in `data_dir`."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", "")))))
    patch.setenv("WAN_UI_DATA_DIR", str(data_dir))
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    machines = None
    try:
        machines = _started({**SMALL, "num_gpus": gpus_of_head})
        yield machines
    finally:
        ray.shutdown()
        if machines is not None:
            machines.shutdown()
        patch.undo()


def _started(head: dict[str, Any]) -> Any:
    """A cluster of a head alone."""
    from ray.cluster_utils import Cluster as RayMachines

    return _in_time(lambda: RayMachines(initialize_head=True, head_node_args=head))


def add_machine(machines: Any) -> Any:
    """A further machine of a cluster, with one GPU."""
    return _in_time(lambda: machines.add_node(**SMALL, num_gpus=1))


def _in_time(start: Callable[[], Any]) -> Any:
    """What `start` returns. Ray gives a start 30 s, which cannot be changed: on a busy machine it is tried again."""
    for _ in range(STARTS - 1):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error) and not isinstance(error, TimeoutError):
                raise
    return start()


def joined(address: str, data_dir: Path, dispatcher: Dispatcher, real: bool = False) -> Cluster:
    """The cluster at an address, whose GPUs the dispatcher gets; `real`: with the real engine."""
    options = EngineOptions.of(Settings(data_dir=data_dir, lora_dir=data_dir / "loras", models_dir=CHECKPOINTS))
    program = PROGRAM if real else FAKE_PROGRAM
    sources: CheckpointSources = sources_of(options)

    def no_files(generation: Generation) -> tuple[()]:
        return ()

    return join_cluster(address, options, dispatcher, sources, no_files, None, program)
