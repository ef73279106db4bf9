"""Which machines of a cluster are used, over a fake client; and what is said where Ray is not installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from tests.pool.helpers import options
from wan_ui.config import read
from wan_ui.pool.checkpoint_prints import CheckpointPrints, sources_of
from wan_ui.pool.cluster import Cluster, ClusterNode, ClusterPool, NodeState
from wan_ui.pool.ray_slots import ClusterGpu, RaySlot
from wan_ui.pool.slot_actor import NodeFacts
from wan_ui.pool.slots import Slot

OWN = {"wan-ui": "1", "torch": "2", "diffusers": "3", "peft": "4"}
GOOD = NodeFacts(OWN, ("wan21_1b",))
FIRST, SECOND = ClusterNode("a", "first", 2), ClusterNode("b", "second", 3)


class FakeClient:
    """Machines and their facts, as a test sets them; None: not answered yet."""

    def __init__(self) -> None:
        self.listed: list[ClusterNode] = []
        self.facts: Mapping[str, NodeFacts | str | None] = {}
        self.requests: list[int] = []

    def nodes(self) -> list[ClusterNode]:
        return self.listed

    def ask_facts(self, node: ClusterNode) -> Callable[[], NodeFacts | str | None]:
        return lambda: self.facts.get(node.id, GOOD)

    def request_gpus(self, count: int) -> None:
        self.requests.append(count)


class FakeHolder:
    """Keeps the slots' names; `wanted` is how many have work."""

    def __init__(self) -> None:
        self.slots: list[str] = []
        self.wanted = 0

    def add_slot(self, slot: Slot) -> None:
        self.slots.append(slot.name)

    def remove_slot(self, name: str) -> None:
        self.slots.remove(name)

    def wanted_slots(self) -> int:
        return self.wanted


def make(max_gpus: int | None = None) -> tuple[Cluster, FakeClient, FakeHolder]:
    client, holder = FakeClient(), FakeHolder()
    return Cluster(client, holder, lambda gpu: cast(Slot, gpu), OWN, max_gpus), client, holder  # a GPU has a name too


def test_each_gpu_of_a_machine_gets_a_slot_until_the_machine_is_gone() -> None:
    cluster, client, holder = make()
    client.listed = [FIRST, ClusterNode("head", "without GPUs", 0)]
    cluster.look()
    assert holder.slots == ["first GPU 0", "first GPU 1"]
    assert cluster.states() == (NodeState("first", "used", models=("wan21_1b",), slots=("first GPU 0", "first GPU 1")),)
    client.listed = [SECOND]
    cluster.look()
    assert holder.slots == ["second GPU 0", "second GPU 1", "second GPU 2"]


def test_a_machine_has_no_slots_before_it_has_answered() -> None:
    cluster, client, holder = make()
    client.listed, client.facts = [FIRST], {"a": None}
    cluster.look()
    assert (holder.slots, cluster.states()) == ([], (NodeState("first", "asked"),))
    client.facts = {}
    cluster.look()
    assert len(holder.slots) == 2


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (replace(GOOD, versions={**OWN, "torch": "2.1"}), "It has torch 2.1, the server 2."),
        (replace(GOOD, versions={"wan-ui": "1"}), "It has torch not installed, the server 2."),
        ("wan-ui does not run there: no module", "wan-ui does not run there: no module"),
    ],
)
def test_a_machine_with_other_versions_is_refused_with_the_reason(facts: NodeFacts | str, reason: str) -> None:
    cluster, client, holder = make()
    client.listed, client.facts = [FIRST, SECOND], {"a": facts}
    cluster.look()
    assert holder.slots == ["second GPU 0", "second GPU 1", "second GPU 2"]
    assert [state.body() for state in cluster.states()] == [
        {"name": "first", "state": "refused", "reason": reason, "models": [], "splits": False},
        {"name": "second", "state": "used", "reason": None, "models": ["wan21_1b"], "splits": False},
    ]


def test_only_slots_of_one_machine_whose_processes_see_each_other_may_group() -> None:
    client, machines = FakeClient(), list[str]()

    def make_slot(gpu: ClusterGpu) -> Slot:
        server = options(Path("/nowhere"))
        slot = RaySlot(gpu, server, CheckpointPrints(sources_of(server)), lambda generation: ())
        machines.append(slot.machine)
        return slot

    cluster = Cluster(client, FakeHolder(), make_slot, OWN)
    client.listed, client.facts = [FIRST, SECOND], {"b": replace(GOOD, can_group=True, gpu_model="H200")}
    cluster.look()
    assert machines == ["first GPU 0", "first GPU 1", "b", "b", "b"]
    assert [state.splits for state in cluster.states()] == [False, True]


def test_the_model_of_a_mixed_machines_gpu_is_not_known_before_an_actor_has_it() -> None:
    server = options(Path("/nowhere"))
    known, unknown = (
        RaySlot(ClusterGpu("a", 0, "GPU", model, True), server, CheckpointPrints(sources_of(server)), lambda _: ())
        for model in ("H200", None)
    )
    assert (known.device_name, unknown.device_name) == ("H200", None)


def test_the_machines_have_one_build_of_torch_which_the_server_need_not_have() -> None:
    cluster, client, holder = make()
    client.listed = [FIRST]
    client.facts = {"a": replace(GOOD, versions={**OWN, "torch": "2+cu130"})}
    cluster.look()
    client.listed = [FIRST, SECOND]
    client.facts = {**client.facts, "b": replace(GOOD, versions={**OWN, "torch": "2+cu128"})}
    cluster.look()
    assert [state.reason for state in cluster.states()] == [
        None,
        "It has torch 2+cu128, the machines in use 2+cu130.",
    ]
    assert holder.slots == ["first GPU 0", "first GPU 1"]


def test_at_most_so_many_gpus_are_used_and_asked_for() -> None:
    cluster, client, holder = make(max_gpus=4)
    client.listed, holder.wanted = [FIRST, SECOND], 9
    cluster.look()
    assert holder.slots == ["first GPU 0", "first GPU 1", "second GPU 0", "second GPU 1"]
    client.listed, holder.wanted = [SECOND], 1
    cluster.look()
    assert holder.slots == ["second GPU 0", "second GPU 1", "second GPU 2"]
    cluster.look()
    assert client.requests == [4, 1]


def test_what_is_said_of_the_clusters_gpus() -> None:
    class Shown:
        def __init__(self, device: str | None) -> None:
            self.device = device

    assert ClusterPool(lambda: [Shown("H200"), Shown("H200")]).render_device == "H200"
    assert ClusterPool(lambda: [Shown("H200"), Shown(None)]).render_device is None
    assert ClusterPool(lambda: [Shown("H200")]).device_name == "a cluster, of which 1 GPU can be used now"


@pytest.mark.parametrize(
    "flags",
    [
        ["--cluster", "auto", "--gpus", "0"],
        ["--cluster", "auto", "--device", "cpu"],
        ["--max-gpus", "2"],
        ["--cluster", ""],
        ["--cluster", "10.0.0.1"],
        ["--cluster", "10.0.0.1:0"],
        ["--cluster", "10.0.0.1:65536"],
        ["--cluster", "local"],  # Ray would start a cluster of its own
    ],
)
def test_flags_that_do_not_go_together_end_the_program(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read(flags, {})
    assert "--cluster" in capsys.readouterr().err


WITHOUT_RAY = """
import sys
sys.modules["ray"] = None
from wan_ui.compose import compose
from wan_ui.config import read
from wan_ui.errors import ClusterUnavailable
try:
    compose(read(["--cluster", "auto", "--data-dir", sys.argv[1], "--lora-dir", sys.argv[1]], {}))
except ClusterUnavailable as error:
    print(error.message)
"""


@pytest.mark.slow
def test_a_server_without_ray_names_the_extra(tmp_path: object) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )
    assert "pip install 'wan-ui[cluster]'" in done.stdout
