"""A video's settings into the form: the place to drop it, and what differs now; it reads no file and knows no job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from wan_ui.errors import InvalidRequest, WanUIError
from wan_ui.request import model_row, parse
from wan_ui.ui.arrived import decoded

if TYPE_CHECKING:
    from wan_ui.ui.page import Page

_HERE = Path(__file__).parent
Update = dict[Any, Any]
"""What a handler changes; outputs it leaves out stay as they are. Here, as Gradio reads the handlers' types."""


class RestoreBox:
    """The component. The browser sends the video to POST /v1/restore itself, and then the request that came back here.

    Its event carries `pressed`: what to `do` ("open" the request, or take its "frame" alone), the `request` as
    JSON text, and a `ticket`, which comes back in `value` with the `problem`, so that the browser says only what has
    happened.
    """

    def __init__(self) -> None:
        """Lays the box out in the surrounding column."""
        self.box = gr.HTML(
            None,
            html_template=(_HERE / "restore.html").read_text(encoding="utf-8"),
            js_on_load=(_HERE / "restore.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            elem_id="restore",
        )

    def connect(self, page: Page) -> None:
        """Wires the event."""
        self.page = page
        drafts = [tab.draft for tab in page.rows.values()]  # which hold what the controls do, in fewer inputs
        self.box.click(
            self.on_request,
            [page.uploads, *drafts],
            [self.box, *page.loaded],
            api_visibility="private",
            show_progress="hidden",
            preprocess=False,
            concurrency_limit=4,
        )

    def on_request(self, event: gr.EventData, uploads: Any, *drafts: Any) -> Update:
        told: Mapping[str, Any] = event.pressed
        try:
            request = decoded(str(told.get("request") or ""))
            if told.get("do") == "frame":
                found = self._with_frame(request, drafts)
            else:
                found = self.page.open_request(request, 0, uploads)
        except WanUIError as error:
            return {self.box: gr.HTML(value={"ticket": told.get("ticket"), "problem": error.message})}
        return {**found, self.box: gr.HTML(value={"ticket": told.get("ticket"), "problem": ""})}

    def _with_frame(self, request: Any, drafts: Sequence[Any]) -> Update:
        """A request's first frame in its model's form, whose other values stay as they are."""
        asked = parse(request)
        tab = self.page.rows[model_row(asked.model).id]
        if "ctrl_img" not in tab.components:
            raise InvalidRequest(f"{tab.row.label} takes no first frame.")
        draft = dict(zip(self.page.rows, drafts, strict=True))[tab.row.id]
        held = self.page.left(tab, draft) or self.page.starting_values(tab)[0]
        return self.page.put_first_frame(tab, held, asked.prompts[0].ctrl_img or "")
