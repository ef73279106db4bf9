"""What the server makes of Ray's errors; no cluster is started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.pool.helpers import options
from tests.ports import reserve_port
from wan_ui.errors import ClusterUnavailable
from wan_ui.pool.cluster import ClusterNode
from wan_ui.pool.ray_cluster import FACTS_TRIES, RayClient, connect
from wan_ui.pool.slot_actor import NodeFacts

pytestmark = pytest.mark.soak  # Ray is an extra
NODE = ClusterNode("0" * 56, "machine", 1)


class Answers(RayClient):
    """Is answered so, one after another."""

    def __init__(self, data_dir: Path, answers: Sequence[object]) -> None:
        super().__init__(options(data_dir))
        self.left = list(answers)
        self._ray: Any = self

    def _ask_facts(self, node: ClusterNode) -> object:
        return self.left.pop(0)

    @property
    def exceptions(self) -> Any:
        import ray

        return ray.exceptions

    def wait(self, asked: list[object], timeout: float) -> tuple[list[object], list[object]]:
        return asked, []

    def get(self, asked: object) -> object:
        if isinstance(asked, Exception):
            raise asked
        return asked


def test_a_machine_whose_process_is_lost_is_asked_again(tmp_path: Path) -> None:
    from ray.exceptions import WorkerCrashedError

    facts = NodeFacts({}, ())
    lost = [WorkerCrashedError() for _ in range(FACTS_TRIES - 1)]
    answer = Answers(tmp_path, [*lost, facts]).ask_facts(NODE)
    assert [answer() for _ in range(FACTS_TRIES)] == [*(None for _ in lost), facts]
    answer = Answers(tmp_path, [WorkerCrashedError() for _ in range(FACTS_TRIES)]).ask_facts(NODE)
    assert str([answer() for _ in range(FACTS_TRIES)][-1]).startswith("wan-ui does not run there: ")


def test_a_head_that_is_not_there_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_asked(**_: object) -> None:
        pytest.fail("Ray tries for minutes")

    monkeypatch.setattr("ray.init", is_asked)
    with pytest.raises(ClusterUnavailable, match="refused"):
        connect(f"127.0.0.1:{reserve_port()}", options(tmp_path))


def test_an_autoscaler_that_does_not_answer_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**_: object) -> None:
        raise RuntimeError("The connection is lost.")

    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", fails)
    with pytest.raises(ClusterUnavailable):
        Answers(tmp_path, []).request_gpus(1)
