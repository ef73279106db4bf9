"""Joins a Ray cluster: its machines, their facts, and the files of the server that a clip needs there."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wan_ui.access import LOCAL_ACCESS
from wan_ui.checkpoints.sources import CheckpointSources
from wan_ui.errors import ClusterUnavailable
from wan_ui.lora.library import Library
from wan_ui.lora.metadata import ADAPTER_CONFIG, LARGEST_CONFIG
from wan_ui.media.image import ImageStore
from wan_ui.pool.checkpoint_prints import CheckpointPrints
from wan_ui.pool.cluster import Cluster, ClusterNode, SlotHolder
from wan_ui.pool.messages import EngineOptions
from wan_ui.pool.node_files import SentFile
from wan_ui.pool.processes import PROGRAM
from wan_ui.pool.ray_slots import ClusterGpu, FilesOf, LocalFile, RaySlot, launch_actor
from wan_ui.pool.slot_actor import Marker, NodeFacts, node_facts
from wan_ui.provenance.restoring import installed
from wan_ui.request import Generation

REACH_SECONDS = 10.0  # for a connection to the head
FACTS_TRIES = 3  # to ask a machine for its facts, where the process that is to say them is lost


def join_cluster(
    address: str,
    options: EngineOptions,
    holder: SlotHolder,
    sources: CheckpointSources,
    files_of: FilesOf,
    max_gpus: int | None,
    program: Sequence[str] = PROGRAM,
) -> Cluster:
    """Joins the cluster at an address, whose GPUs get slots once it is started. Raises ClusterUnavailable."""
    client = connect(address, options)
    prints = CheckpointPrints(sources)

    def make_slot(gpu: ClusterGpu) -> RaySlot:
        return RaySlot(gpu, options, prints, files_of, launch=partial(launch_actor, program=program))

    return Cluster(client, holder, make_slot, installed(), max_gpus)


def files_of(library: Library, images: ImageStore, generation: Generation) -> tuple[LocalFile, ...]:
    """The LoRA files and images of a generation. Raises what locates them."""
    loras = []
    for use in generation.loras:
        file = library.locate(use.path, LOCAL_ACCESS, use.sha256)
        config = _adapter_config(file.path.with_name(ADAPTER_CONFIG))
        loras.append(LocalFile(file.path, SentFile("lora", file.sha256, file.size, use.path, file.name, config)))
    pictures = []
    for sha256 in filter(None, (generation.image, generation.image_last)):
        path = images.path(sha256, LOCAL_ACCESS)
        pictures.append(LocalFile(path, SentFile("image", sha256, path.stat().st_size)))
    return (*loras, *pictures)


def connect(address: str, options: EngineOptions) -> RayClient:
    """Joins a cluster. Raises ClusterUnavailable, also where Ray is not installed."""
    on_term, record_factory = signal.getsignal(signal.SIGTERM), logging.getLogRecordFactory()
    try:
        import ray
    except ImportError as error:
        raise ClusterUnavailable(
            "--cluster needs Ray, which is not installed. Install it with: pip install 'wan-ui[cluster]'"
        ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        _reach(address)
        ray.init(address=address, namespace="wan-ui", log_to_driver=False, configure_logging=False)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ClusterUnavailable(
            f"The cluster {address} cannot be joined ({reason}). This machine must be one of it: see docs/cluster.md."
        ) from error
    finally:
        signal.signal(signal.SIGTERM, on_term)  # Ray sets one of its own, and adds a field to every line of the log
        logging.setLogRecordFactory(record_factory)
    return RayClient(options)


class RayClient:
    """A Ray cluster that this process has joined."""

    def __init__(self, options: EngineOptions) -> None:
        import ray

        self._ray = ray
        self._options = options

    @contextmanager
    def _head_answers(self) -> Iterator[None]:
        """Raises ClusterUnavailable in place of Ray's errors."""
        try:
            yield
        except (self._ray.exceptions.RayError, ConnectionError, RuntimeError) as error:
            raise ClusterUnavailable("The cluster's head does not answer.") from error

    def nodes(self) -> tuple[ClusterNode, ...]:
        """The machines that are up. Raises ClusterUnavailable."""
        with self._head_answers():
            listed = self._ray.nodes()  # type: ignore[no-untyped-call]
        return tuple(
            ClusterNode(each["NodeID"], _name(each), int(each["Resources"].get("GPU", 0)))
            for each in listed
            if each["Alive"]
        )

    def ask_facts(self, node: ClusterNode) -> Callable[[], NodeFacts | str | None]:
        """Asks a machine for its facts. A process there that is lost is replaced. Raises ClusterUnavailable."""
        with self._head_answers():
            asked = self._ask_facts(node)
        tries = 1

        def answer() -> NodeFacts | str | None:
            nonlocal asked, tries
            if not self._ray.wait([asked], timeout=0)[0]:
                return None
            try:
                facts: NodeFacts = self._ray.get(asked)
            except self._ray.exceptions.RayError as error:
                if tries < FACTS_TRIES and not isinstance(error, self._ray.exceptions.RayTaskError):
                    asked, tries = self._ask_facts(node), tries + 1
                    return None
                lines = str(error).strip().splitlines() or [type(error).__name__]
                return f"wan-ui does not run there: {lines[-1].strip()}"
            return facts

        return answer

    def _ask_facts(self, node: ClusterNode) -> Any:
        """The facts to come, from a process of its own there; of several GPUs, from two at the same time."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        mark = None
        if node.gpus > 1:
            actor = self._ray.remote(Marker).options(num_cpus=0, max_restarts=0, scheduling_strategy=there)
            marker: Any = actor.remote()
            mark = marker.leave.remote(self._options)
        task: Any = self._ray.remote(node_facts).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        return task.remote(self._options, mark)

    def request_gpus(self, count: int) -> None:
        """Asks the autoscaler for so many GPUs, in place of what was asked before. Raises ClusterUnavailable."""
        from ray.autoscaler.sdk import request_resources

        with self._head_answers():
            request_resources(bundles=[{"GPU": 1}] * count)

    def close(self) -> None:
        """Leaves the cluster: all actors of this process end."""
        self._ray.shutdown()


def _reach(address: str) -> None:
    """Raises OSError where nothing listens at the address of a head, which Ray itself finds out after minutes."""
    if address != "auto":
        head = urlsplit(f"//{address}")
        socket.create_connection((head.hostname, head.port), REACH_SECONDS).close()


def _adapter_config(path: Path) -> bytes | None:
    """PEFT's config beside a LoRA file, which states its alpha; None where there is none that would be read."""
    try:
        return None if path.is_symlink() or not 0 < path.stat().st_size <= LARGEST_CONFIG else path.read_bytes()
    except OSError:
        return None


def _name(listed: Mapping[str, Any]) -> str:
    """A machine's name for people, with the start of its id: several may share a host."""
    return f"{listed['NodeManagerHostname']} {listed['NodeID'][:6]}"
