"""The API's main verbs as tools of an MCP server: what each takes, and the request of /v1 that it makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from wan_ui.api.bodies import parse_json
from wan_ui.api.schemas import InspectBody, RequestIdBody, RestoreBody
from wan_ui.errors import InvalidRequest
from wan_ui.request import InferenceRequest
from wan_ui.text import decode_base64

_NOTHING: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True)
class ApiRequest:
    """A request of the API, with a path below /v1: `json` or the bytes of a `file` as its body, or none."""

    method: str
    path: str
    json: Any = None
    file: bytes | None = None


@dataclass(frozen=True)
class ApiTool:
    """A tool. `request` makes the API's request from its arguments, and raises InvalidRequest for wrong ones."""

    name: str
    description: str
    schema: Mapping[str, Any]
    request: Callable[[Mapping[str, Any]], ApiRequest]


def _of_request(method: str, what: str) -> Callable[[Mapping[str, Any]], ApiRequest]:
    def request(arguments: Mapping[str, Any]) -> ApiRequest:
        request_id = parse_json(RequestIdBody, arguments).request_id
        return ApiRequest(method, f"/requests/{quote(request_id, safe='')}/{what}")

    return request


def _compare(arguments: Mapping[str, Any]) -> ApiRequest:
    if arguments.get("compare") is None:
        problem = {"loc": "compare", "msg": "one to three axes are needed"}
        raise InvalidRequest("compare: one to three axes are needed; without them, use submit.", fields=[problem])
    return ApiRequest("POST", "/inference", json=arguments)


def _restore(arguments: Mapping[str, Any]) -> ApiRequest:
    text = parse_json(RestoreBody, arguments).video
    try:
        data = decode_base64(text)
    except ValueError as error:
        problem = {"loc": "video", "msg": "must be base64"}
        raise InvalidRequest("video: must be the MP4's bytes as base64.", fields=[problem]) from error
    return ApiRequest("POST", "/restore", file=data)


def _comparison_schema() -> dict[str, Any]:
    schema = InferenceRequest.model_json_schema()
    return {**schema, "required": [*schema.get("required", ()), "compare"]}


TOOLS: tuple[ApiTool, ...] = (
    ApiTool(
        "list_models",
        "The Wan models of this server with their defaults, and whether they need a first frame.",
        _NOTHING,
        lambda _arguments: ApiRequest("GET", "/models"),
    ),
    ApiTool(
        "inspect_lora",
        "What a LoRA file is, from its header: models it fits, rank, trainer, training step, the other half of a pair.",
        InspectBody.model_json_schema(),
        lambda arguments: ApiRequest("POST", "/loras/inspect", json=arguments),
    ),
    ApiTool(
        "submit",
        "Queue a request for one or several videos. Returns request_id at once; poll status, then read result.",
        InferenceRequest.model_json_schema(),
        lambda arguments: ApiRequest("POST", "/inference", json=arguments),
    ),
    ApiTool(
        "status",
        "The state of a request: in_queue, in_progress, succeeded, failed or canceled.",
        RequestIdBody.model_json_schema(),
        _of_request("GET", "status"),
    ),
    ApiTool(
        "result",
        "The videos of a request as addresses of this server, and every value they were made with.",
        RequestIdBody.model_json_schema(),
        _of_request("GET", "result"),
    ),
    ApiTool(
        "compare",
        "Queue a comparison: one prompt as a grid over one to three axes, such as LoRA scale, LoRA file or seed.",
        _comparison_schema(),
        _compare,
    ),
    ApiTool(
        "restore",
        "The request inside an MP4 that this program wrote, and what differs on this server now.",
        RestoreBody.model_json_schema(),
        _restore,
    ),
)
