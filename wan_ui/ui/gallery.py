"""The Gallery tab: finished videos to be found, played, kept, deleted and used again; the browser asks /v1 itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from wan_ui.engine.recipes import RECIPES
from wan_ui.errors import WanUIError
from wan_ui.ui.compare_tab import ID as COMPARE

if TYPE_CHECKING:
    from wan_ui.jobs.visitor_desk import VisitorDesk
    from wan_ui.ui.page import Page

ID = "gallery"
_HERE = Path(__file__).parent
_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "preprocess": False}

Update = dict[Any, Any]
"""What a handler changes; outputs it leaves out stay as they are. Here, as Gradio reads the handlers' types."""


class GalleryTab:
    """Holds the tab's one component; every method named `on_…` is an event's handler."""

    def __init__(self, desk: VisitorDesk) -> None:
        """Lays the tab out inside the surrounding gr.Tabs."""
        self.desk = desk
        with gr.Tab("Gallery", id=ID) as self.container:
            self.board = gr.HTML(
                None,
                html_template=(_HERE / "gallery.html").read_text(encoding="utf-8"),
                css_template=(_HERE / "gallery.css").read_text(encoding="utf-8"),
                js_on_load=(_HERE / "gallery.js").read_text(encoding="utf-8"),
                apply_default_css=False,
                elem_id="gallery",
                recipes={recipe: one.label for recipe, one in RECIPES.items()},
            )

    def connect(self, page: Page) -> None:
        """Wires the events."""
        self.page = page
        self.container.select(self.on_tab, [], [page.place, page.text], **_QUIET)
        into: list[Any] = [*page.loaded, *page.compare.view]
        self.board.click(self.on_press, [page.uploads, page.compare.seen], into, concurrency_limit=8, **_QUIET)

    def on_tab(self) -> Update:
        return {self.page.place: ID, self.page.text: ""}

    def on_press(self, uploads: Any, compared: Any, event: gr.EventData) -> Update:
        """A comparison is opened in its tab, or the settings of an entry in a form."""
        try:
            if event.do == "use":
                entry = self.desk.entry(str(event.entry))
                return self.page.reopen(self.desk.job(entry.job_id), entry.index, uploads)
            job = self.desk.job(str(event.job))
        except WanUIError as error:
            raise gr.Error(error.message, print_exception=False) from error
        return {
            self.page.tabs: gr.Tabs(selected=COMPARE),
            self.page.place: COMPARE,
            self.page.compare.shown: job.id,
            **self.page.compare.look(job.id, compared),
        }
