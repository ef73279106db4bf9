"""A response with a stored file, which may be deleted at any moment until it is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from wan_ui.errors import VideoNotFound, WanUIError
from wan_ui.web.asgi import error_response

FILE_HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-store",
}
"""Of a file of visitors: its type is not guessed, no other page embeds it, and it is not stored."""

Gone = Callable[[], WanUIError]
"""Makes the error: one that is raised again and again would keep every traceback."""


def video_deleted() -> VideoNotFound:
    """The error for a video whose file was deleted."""
    return VideoNotFound("The file of this video was deleted.")


class StoredFile(FileResponse):
    """The file, or the error `gone` if it is deleted before it is opened: FileResponse would break off, or answer 500.

    Raises `gone` for a file that is not there.
    """

    def __init__(
        self,
        path: Path,
        media_type: str,
        headers: Mapping[str, str],
        *,
        filename: str | None = None,
        gone: Gone = video_deleted,
    ) -> None:
        try:
            state = path.stat()
        except FileNotFoundError as error:
            raise gone() from error
        self.size = state.st_size
        self._gone = gone
        super().__init__(
            path,
            media_type=media_type,
            headers=headers,
            filename=filename,
            stat_result=state,
            content_disposition_type="inline",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app. The start of the response waits for its first bytes: by then the file is open."""
        start: Message | None = None

        async def sent(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            if start is not None:
                await send(start)
                start = None
            await send(message)

        try:
            await super().__call__(scope, receive, sent)
        except FileNotFoundError:
            if start is None:
                raise
            await error_response(self._gone())(scope, receive, send)
