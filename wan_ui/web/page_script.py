"""The page's own script as a file of its own, which browsers keep: the document, sent with every visit, is smaller."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wan_ui.web.security_headers import IMMUTABLE

HASH_DIGITS = 16  # of the SHA-256 in the file's name


@dataclass(frozen=True)
class PageScript:
    """A script whose address changes with its text."""

    text: str

    @cached_property
    def path(self) -> str:
        """Its address below the page's."""
        return f"scripts/page-{hashlib.sha256(self.text.encode()).hexdigest()[:HASH_DIGITS]}.js"

    @property
    def tag(self) -> str:
        """The element of the document's head that loads it."""
        return f'<script src="{self.path}"></script>'

    @property
    def route(self) -> Route:
        """Answers with it."""

        def script(request: Request) -> Response:
            return Response(self.text, media_type="text/javascript", headers={"Cache-Control": IMMUTABLE})

        return Route(f"/{self.path}", script)
