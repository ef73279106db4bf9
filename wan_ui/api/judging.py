"""Judging a comparison: marks on its clips, blind votes on pairs of them, and the ranking that follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from wan_ui.api.bodies import parse_json
from wan_ui.api.dependencies import CurrentAccess, Json, RequestId, Root, Service
from wan_ui.api.openapi import content, errors, request_body
from wan_ui.api.requests import VideoIndex
from wan_ui.api.schemas import BallotBody, JudgingBody, MarkBody, VoteBody
from wan_ui.api.serializers import judging_body
from wan_ui.errors import VideoNotFound
from wan_ui.jobs.judging import Side
from wan_ui.media import boxes
from wan_ui.web.ranges import check_range, range_of
from wan_ui.web.stored_file import FILE_HEADERS

if TYPE_CHECKING:
    from wan_ui.jobs.judging import Ballot

PairId = Annotated[str, Path(description="`id` of a pair from POST …/pairs.", max_length=200)]
# No ETag and no Last-Modified: they would tell the clip, and the order in which clips were rendered.
_HEADERS = {**FILE_HEADERS, "Accept-Ranges": "bytes"}

router = APIRouter()


def _ballot(root: str, request_id: str, ballot: Ballot) -> dict[str, Any]:
    pair = ballot.pair
    address = None if pair is None else f"{root}/requests/{request_id}/pairs/{pair.id}"
    return {
        "id": None if pair is None else pair.id,
        "a_url": None if address is None else f"{address}/a.mp4",
        "b_url": None if address is None else f"{address}/b.mp4",
        "choice": None if pair is None else pair.choice,
        "voted": ballot.voted,
        "pairs": ballot.pairs,
    }


@router.get(
    "/requests/{request_id}/judging",
    summary="A comparison's marks and its ranking from the votes",
    response_model=JudgingBody,
    responses=errors(404, 422, 503),
)
def judging(service: Service, access: CurrentAccess, request_id: RequestId) -> dict[str, Any]:
    """Your own; for the owner also what all sessions say together."""
    job = service.job(request_id, access)
    if not job.cells:
        raise VideoNotFound("This request is not a comparison: it has no cells to judge.")
    return judging_body(service.judging.judgement(job, access), service.judging.judgement_of_all(job, access))


@router.put(
    "/requests/{request_id}/marks/{n}",
    summary="Mark a comparison's clip as favourite or rejected, or remove the mark",
    response_model=MarkBody,
    responses=errors(400, 404, 413, 422, 503),
    openapi_extra=request_body(MarkBody.model_json_schema()),
)
async def mark(
    service: Service, access: CurrentAccess, request_id: RequestId, n: VideoIndex, body: Json
) -> dict[str, Any]:
    """The mark is your own: others do not see it, except the owner as a number."""
    wanted = parse_json(MarkBody, body).mark
    await anyio.to_thread.run_sync(service.judging.mark, request_id, n, wanted, access)
    return {"mark": wanted}


@router.post(
    "/requests/{request_id}/pairs",
    summary="Two clips to vote on, without what they were made with",
    response_model=BallotBody,
    responses=errors(404, 422, 503),
)
def next_pair(service: Service, access: CurrentAccess, root: Root, request_id: RequestId) -> dict[str, Any]:
    """A pair you have not voted on, sides at random; the same one until you vote. `id` is null when none is left."""
    return _ballot(root, request_id, service.judging.next_pair(request_id, access))


@router.put(
    "/requests/{request_id}/pairs/{pair_id}",
    summary="Vote on a pair, or change your vote",
    response_model=BallotBody,
    responses=errors(400, 404, 413, 422, 503),
    openapi_extra=request_body(VoteBody.model_json_schema()),
)
async def vote(
    service: Service, access: CurrentAccess, root: Root, request_id: RequestId, pair_id: PairId, body: Json
) -> dict[str, Any]:
    """Which of the two is better, or `tie`."""
    choice = parse_json(VoteBody, body).choice
    ballot = await anyio.to_thread.run_sync(service.judging.vote, request_id, pair_id, choice, access)
    return _ballot(root, request_id, ballot)


@router.get(
    "/requests/{request_id}/pairs/{pair_id}/{side}.mp4",
    summary="One clip of a pair, without its settings",
    response_class=Response,
    responses={
        **errors(404, 416, 422, 503),
        200: {"description": "The clip.", **content("video/mp4", is_described=False)},
        206: {"description": "The range of the clip.", **content("video/mp4", is_described=False)},
    },
)
def pair_clip(
    request: Request, service: Service, access: CurrentAccess, request_id: RequestId, pair_id: PairId, side: Side
) -> Response:
    """The same frames as the cell's own file; neither the address nor the file names the cell."""
    index = service.judging.shown_generation(request_id, pair_id, side, access)
    data = boxes.without_user_data(service.clip_path(request_id, index, access))
    check_range(request, len(data))
    part = range_of(request, len(data))
    if part is None:
        return Response(data, media_type="video/mp4", headers=_HEADERS)
    first, last = part
    headers = {**_HEADERS, "Content-Range": f"bytes {first}-{last}/{len(data)}"}
    return Response(data[first : last + 1], 206, headers, "video/mp4")
