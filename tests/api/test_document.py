"""The HTTP API against its own document: whatever schemathesis makes of it, no 500, and each refusal as documented.

The ordinary run has 120 examples or a few more, that of scripts/soak 2,000. The API is the app's own, on a port and
behind its guard; no engine runs, and some requests have come to each of their ends before.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from tests.jobs.helpers import body
from tests.ports import reserve_port
from tests.servers import stop_server
from wan_ui.access import LOCAL_ACCESS
from wan_ui.compose import Services, SignIn, compose, launch
from wan_ui.config import Settings
from wan_ui.job import ClipRecord
from wan_ui.jobs.store import Store
from wan_ui.media import video
from wan_ui.server import prepare_environment
from wan_ui.tunnel import Tunnel

if TYPE_CHECKING:
    from schemathesis import GenerationMode

pytestmark = pytest.mark.slow
EXAMPLES = int(os.environ.get("WAN_UI_EXAMPLES", "120"))
SEED = 20261121
SECONDS_A_REQUEST = 30


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    environment: dict[str, str] = {}
    prepare_environment(environment, data_dir)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    services = compose(Settings(models_dir=tmp_path, lora_dir=tmp_path / "loras", data_dir=data_dir))
    yield services
    services.close()


@pytest.fixture
def url(services: Services) -> Iterator[str]:
    """The URL at which the app serves these services with its page, without an engine."""
    port = reserve_port()
    settings = Settings()
    blocks = launch(services, None, port, settings, SignIn.of(settings, Tunnel(settings.data_dir)))
    yield f"http://127.0.0.1:{port}"
    stop_server(blocks)


def ended(services: Services, status: str) -> str:
    """The id of a request of each end: of a comparison where it succeeded, with its clips' files."""
    compare = {"compare": {"columns": {"field": "seed", "values": [1, 2]}}} if status == "succeeded" else {}
    job = services.service.submit({**body(1), **compare}, LOCAL_ACCESS)
    store: Store = services.store
    if status == "canceled":
        services.service.cancel(job.id, LOCAL_ACCESS)
    elif status != "in_queue":
        assert store.claim_next() == job.id
        for index, one in enumerate(job.generations):
            file = f"clips/{job.id}{index}.mp4"
            path = services.uploads.parent / file
            path.parent.mkdir(exist_ok=True)
            video.write(path, np.zeros((1, 64, 64, 3), np.uint8), 16, {"generation": {}})
            store.add_clip(job.id, ClipRecord(index, 64, 64, 1, 16, one.seed, file, {"recipe": one.recipe}))
        failed = {"code": "RENDER_FAILED", "message": "It broke.", "details": {"prompt": 0}}
        store.finish(job.id, "failed" if status == "failed" else "succeeded", failed if status == "failed" else None)
    return job.id


def is_documented_error(answer: Any) -> bool:
    error = answer.get("detail", {}).get("error", {})
    return (
        set(answer) == {"detail"}
        and set(answer["detail"]) == {"error"}
        and set(error) == {"code", "message", "details"}
        and bool(error["code"] and error["message"])
    )


def test_no_500_and_every_refusal_as_documented(services: Services, url: str) -> None:
    # Only now: to import it takes four seconds of each process that collects the tests.
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

    known = [ended(services, status) for status in ("failed", "succeeded", "canceled", "in_queue")]
    schema = schemathesis.openapi.from_url(f"{url}/v1/openapi.json")
    schema.config.max_stream_events = 1  # else it reads from each event stream until a request's time is over
    operations: list[Any] = [cast(Any, result).ok() for result in schema.get_all_operations()]
    assert len(operations) > 10
    answers: Counter[int] = Counter()
    wrong: list[str] = []

    def examine(operation: Any, mode: GenerationMode, examples: int) -> None:
        @hypothesis.seed(SEED + answers.total())
        @hypothesis.settings(
            max_examples=examples,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(mode), request_id=st.sampled_from([None, *known]))
        def example(case: Any, request_id: str | None) -> None:
            if request_id is not None and "request_id" in (case.path_parameters or {}):
                case.path_parameters["request_id"] = request_id
            response = case.call(timeout=SECONDS_A_REQUEST)
            answers[response.status_code] += 1
            said = f"{response.status_code} {case.as_curl_command()[:1500]}\n{response.content[:500]!r}"
            if response.status_code == 500 or (
                response.status_code >= 400 and not is_documented_error(response.json())
            ):
                wrong.append(said)
            try:
                case.validate_response(response, checks=[status_code_conformance, response_schema_conformance])
            except BaseExceptionGroup as failures:
                wrong.append(f"{said}\n{[str(one)[:500] for one in failures.exceptions]}")

        with suppress(hypothesis.errors.Unsatisfiable):  # nothing can be wrong about a request without a parameter
            example()

    share = EXAMPLES // (4 * len(operations))
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            examine(operation, mode, max(1, share))
    submit = next(operation for operation in operations if operation.definition.raw["operationId"] == "submit")
    rounds = 0
    while answers.total() < EXAMPLES and rounds < 20:
        left = EXAMPLES - answers.total()
        examine(submit, (GenerationMode.NEGATIVE, GenerationMode.POSITIVE)[rounds % 2], max(5, left // 2))
        rounds += 1
    print(f"\n{answers.total()} examples over {len(operations)} operations: {dict(sorted(answers.items()))}")
    assert not wrong, f"{len(wrong)} wrong answers, of which:\n" + "\n\n".join(wrong[:8])
    assert answers.total() >= EXAMPLES
