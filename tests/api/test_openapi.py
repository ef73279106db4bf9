"""The OpenAPI document against the committed one: what programs rely on; `python -m tests.api.test_openapi` writes it.

Texts (descriptions, summaries) and the version are left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from wan_ui.access import LOCAL_ACCESS
from wan_ui.api.app import create_api
from wan_ui.jobs.service import JobService

COMMITTED = Path(__file__).parent / "openapi.json"


def _without_texts(value: Any) -> Any:
    if isinstance(value, dict):
        texts = {name for name in ("description", "summary") if isinstance(value.get(name), str)}
        return {name: _without_texts(inner) for name, inner in value.items() if name not in texts}
    return [_without_texts(inner) for inner in value] if isinstance(value, list) else value


def document() -> dict[str, Any]:
    """The document of an API whose service is never called."""
    whole = create_api(cast(JobService, None), dict, lambda: LOCAL_ACCESS).openapi()
    stripped: dict[str, Any] = _without_texts(whole)
    del stripped["info"]["version"]
    return stripped


def test_paths_parameters_schemas_bounds_and_codes_stay() -> None:
    assert document() == json.loads(COMMITTED.read_text(encoding="utf-8"))


def test_every_operation_has_an_id_and_a_summary() -> None:
    whole = create_api(cast(JobService, None), dict, lambda: LOCAL_ACCESS).openapi()
    operations = [operation for path in whole["paths"].values() for operation in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    assert all(operation["summary"] and operation["description"] for operation in operations)


if __name__ == "__main__":
    COMMITTED.write_text(json.dumps(document(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
