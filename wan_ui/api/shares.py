"""Share links: the owner makes an address that shows one entry of the gallery without the password, and ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Path
from fastapi.responses import Response

from wan_ui.api.bodies import parse_json
from wan_ui.api.dependencies import CurrentAccess, Json, Root, Service, State
from wan_ui.api.openapi import errors, request_body
from wan_ui.api.schemas import NewShare, ShareBody, ShareList
from wan_ui.web.guest_pages import SHARED_PATH

if TYPE_CHECKING:
    from wan_ui.jobs.shares import Share

ShareId = Annotated[str, Path(description="`id` of a share link.", max_length=200)]

router = APIRouter()


def _body(share: Share) -> dict[str, Any]:
    return {"id": share.id, "entry": share.entry, "created_at": share.created_at, "ends_at": share.ends_at}


@router.post(
    "/shares",
    summary="Make an address that shows one entry of the gallery without the password, for some days",
    status_code=201,
    response_model=NewShare,
    responses=errors(400, 404, 413, 422, 503, 507),
    openapi_extra=request_body(ShareBody.model_json_schema()),
)
async def create_share(state: State, service: Service, access: CurrentAccess, root: Root, body: Json) -> dict[str, Any]:
    """Only for the owner. The address is in this response alone: the server keeps its hash."""
    wanted = parse_json(ShareBody, body)
    share, token = await anyio.to_thread.run_sync(service.shares.create, wanted.entry, wanted.days, access)
    base = state.public_url() or root.removesuffix("/v1")
    return {**_body(share), "url": f"{base.rstrip('/')}{SHARED_PATH}{token}"}


@router.get(
    "/shares",
    summary="The share links that are open, newest first",
    response_model=ShareList,
    responses=errors(503),
)
def shares(service: Service, access: CurrentAccess) -> dict[str, Any]:
    """Only for the owner."""
    return {"shares": [_body(share) for share in service.shares.all(access)]}


@router.delete(
    "/shares/{share_id}",
    summary="End a share link at once",
    status_code=204,
    response_class=Response,
    responses=errors(404, 422, 503),
)
def withdraw_share(service: Service, access: CurrentAccess, share_id: ShareId) -> Response:
    """Only for the owner."""
    service.shares.withdraw(share_id, access)
    return Response(status_code=204)
