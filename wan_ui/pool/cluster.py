"""The machines of a cluster: which are used, which are refused and why, and how many GPUs are asked for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from wan_ui.errors import ClusterUnavailable
from wan_ui.models import Speedup
from wan_ui.pool.ray_slots import ClusterGpu
from wan_ui.pool.slot_actor import NodeFacts
from wan_ui.pool.slots import Slot

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0  # between two looks at the machines
SAME_VERSIONS = ("wan-ui", "torch", "diffusers")


@dataclass(frozen=True)
class ClusterNode:
    """A machine of the cluster as Ray lists it: its id, its name for people and its number of GPUs."""

    id: str
    name: str
    gpus: int


class ClusterClient(Protocol):
    """What is asked of a cluster."""

    def nodes(self) -> Sequence[ClusterNode]:
        """The machines that are up. Raises ClusterUnavailable."""
        ...

    def ask_facts(self, node: ClusterNode) -> Callable[[], NodeFacts | str | None]:
        """Asks a machine for its facts; the result gives them, or why it cannot be used, or None: not yet known."""
        ...

    def request_gpus(self, count: int) -> None:
        """Asks the autoscaler, if there is one, for so many GPUs. Raises ClusterUnavailable."""


class SlotHolder(Protocol):
    """What the dispatcher offers to the cluster."""

    def add_slot(self, slot: Slot) -> None:
        """Use a slot from now on."""

    def remove_slot(self, name: str) -> None:
        """Use a slot no more; the clip that it renders is rendered elsewhere."""

    def wanted_slots(self) -> int:
        """How many slots would have work: the clips that are rendered and those that wait."""
        ...


class SlotDeviceShown(Protocol):
    """A slot as far as its GPU goes."""

    @property
    def device(self) -> str | None:
        """The GPU's model; None before it was first used."""
        ...


@dataclass(frozen=True)
class NodeState:
    """A machine as /v1/health shows it. `reason`: why it is refused. `slots` are the names of its GPUs in use.

    `splits`: whether they can render one video together.
    """

    name: str
    state: Literal["asked", "used", "refused"]
    reason: str | None = None
    models: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()
    splits: bool = False

    def body(self) -> dict[str, Any]:
        """The machine as it is sent."""
        return {
            "name": self.name,
            "state": self.state,
            "reason": self.reason,
            "models": list(self.models),
            "splits": self.splits,
        }


@dataclass
class _Known:
    """What is known of a machine; `facts` answers once it has said what it is, and `answered` is that answer."""

    node: ClusterNode
    facts: Callable[[], NodeFacts | str | None]
    answered: NodeFacts | None = None
    state: NodeState = field(init=False)

    def __post_init__(self) -> None:
        self.state = NodeState(self.node.name, "asked")


def refusal(own: Mapping[str, str], facts: NodeFacts | str, torch: str | None = None) -> str | None:
    """Why a machine cannot be used; None if it can. `torch` is the version of the machines in use, with their build.

    The server itself may have another build of torch (2.13.0+cpu): it computes no clip.
    """
    if isinstance(facts, str):
        return facts
    for name in SAME_VERSIONS:
        here, there = own.get(name, "not installed"), facts.versions.get(name, "not installed")
        if name == "torch":
            here, there = here.partition("+")[0], there.partition("+")[0]
        if here != there:
            return f"It has {name} {there}, the server {here}."
    if torch is not None and facts.versions["torch"] != torch:
        return f"It has torch {facts.versions['torch']}, the machines in use {torch}."
    return None


class Cluster:
    """Looks at the machines every few seconds: new ones get slots, those that are gone lose them.

    `make_slot` makes the slot of a GPU. `versions` are the server's own. `max_gpus` bounds the slots, and is the most
    that the autoscaler is asked for; without it nothing is asked of it.
    """

    def __init__(
        self,
        client: ClusterClient,
        holder: SlotHolder,
        make_slot: Callable[[ClusterGpu], Slot],
        versions: Mapping[str, str],
        max_gpus: int | None = None,
        seconds: float = LOOK_SECONDS,
    ) -> None:
        self._client = client
        self._holder = holder
        self._make_slot = make_slot
        self._versions = versions
        self._max_gpus = max_gpus
        self._seconds = seconds
        self._known: dict[str, _Known] = {}
        self._requested = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wan-ui-cluster", daemon=True)

    def start(self) -> None:
        """Start looking."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking, and ask for no GPU any more."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(self._seconds)

    def states(self) -> tuple[NodeState, ...]:
        """The machines with GPUs as they are now."""
        return tuple(known.state for known in tuple(self._known.values()))

    def look(self) -> None:
        """One look at the machines. Raises ClusterUnavailable."""
        nodes = {node.id: node for node in self._client.nodes() if node.gpus}
        for node_id in set(self._known) - set(nodes):
            gone = self._known[node_id]
            self._known = {key: known for key, known in self._known.items() if key != node_id}
            log.warning("machine left the cluster", extra={"machine": gone.node.name})
            for name in gone.state.slots:
                self._holder.remove_slot(name)
        new = {
            node_id: _Known(node, self._client.ask_facts(node))
            for node_id, node in nodes.items()
            if node_id not in self._known
        }
        self._known = {**self._known, **new}
        for known in self._known.values():
            if known.state.state == "asked" and (facts := known.facts()) is not None:
                known.state = self._judged(known, facts)
            if known.answered is not None:
                self._fill(known, known.answered)
        self._request()

    def _judged(self, known: _Known, facts: NodeFacts | str) -> NodeState:
        """A machine's state once it has answered."""
        in_use = (each.answered.versions.get("torch") for each in self._known.values() if each.answered is not None)
        node, reason = known.node, refusal(self._versions, facts, next(in_use, None))
        if isinstance(facts, str) or reason is not None:
            log.error("machine refused", extra={"machine": node.name, "reason": reason})
            return replace(known.state, state="refused", reason=reason)
        log.info("machine joined the cluster", extra={"machine": node.name, "gpus": node.gpus})
        if node.gpus > 1 and not facts.can_group:
            log.warning("machine cannot divide a video among its GPUs", extra={"machine": node.name})
        known.answered = facts
        return replace(known.state, state="used", models=facts.models, splits=facts.can_group)

    def _fill(self, known: _Known, facts: NodeFacts) -> None:
        """Gives a machine's GPUs slots, as far as `max_gpus` allows."""
        node, state = known.node, known.state
        used = sum(len(each.state.slots) for each in self._known.values())
        free = node.gpus if self._max_gpus is None else self._max_gpus - used
        first, count = len(state.slots), max(0, min(node.gpus - len(state.slots), free))
        for number in range(first, first + count):
            name = f"{node.name} GPU {number}"
            gpu = ClusterGpu(node.id, number, name, facts.gpu_model, facts.can_group)
            self._holder.add_slot(self._make_slot(gpu))
            known.state = replace(known.state, slots=(*known.state.slots, gpu.name))

    def _request(self) -> None:
        """Asks the autoscaler for as many GPUs as there is work for, when that number has changed."""
        if self._max_gpus is None:
            return
        wanted = min(self._max_gpus, self._holder.wanted_slots())
        if wanted != self._requested:
            self._client.request_gpus(wanted)
            self._requested = wanted

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
            except ClusterUnavailable as error:
                log.error(error.message)
            self._stopping.wait(self._seconds)


class ClusterPool:
    """What the server says about a cluster's GPUs in place of an engine of its own."""

    def __init__(self, slots: Callable[[], Sequence[SlotDeviceShown]]) -> None:
        self._slots = slots

    @property
    def device_name(self) -> str:
        """How many GPUs of the cluster are in use."""
        count = len(self._slots())
        return f"a cluster, of which {count} GPU{'' if count == 1 else 's'} can be used now"

    @property
    def render_device(self) -> str | None:
        """The model of GPU that renders, which a clip's metadata names as its device; None where they differ."""
        models = {slot.device for slot in self._slots()}
        return models.pop() if len(models) == 1 else None

    def check_speedup(self, speedup: Speedup) -> None:
        """Returns: what a GPU cannot do is known to its own process, which refuses it when the clip is rendered."""
