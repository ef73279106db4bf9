"""What the routes of /v1 are given: the access of the request that is being answered."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from wan_ui.access import Access


async def current_access(request: Request) -> Access:
    """The access of the request's sender, as the app's `state.access` tells it."""
    access: Access = request.app.state.access()
    return access


CurrentAccess = Annotated[Access, Depends(current_access)]
