"""What can be done with a finished clip beside it: continue it, render it in full, compare its LoRA's strengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from wan_ui.errors import InvalidRequest, WanUIError
from wan_ui.models import MODELS
from wan_ui.ui import render, speed_choice
from wan_ui.ui.events import LOAD, Update, answered, error_toast, run_after
from wan_ui.ui.form_layout import SCALE_VALUES
from wan_ui.ui.load_request import RequestLoader
from wan_ui.wire import in_full

if TYPE_CHECKING:
    from wan_ui.access import Access
    from wan_ui.job import Job
    from wan_ui.jobs.service import JobService


class ResultActions:
    """Answers the buttons of the result; what needs no server is in result_acts.js."""

    def __init__(self, service: JobService, access: Callable[[], Access], loader: RequestLoader) -> None:
        self.service = service
        self.access = access
        self.loader = loader

    def connect(self) -> None:
        """Wires the result's buttons."""
        panel, compare, form = self.loader.status_panel, self.loader.compare, self.loader.form
        changed = [panel.picked, *panel.view, compare.shown, *compare.view[1:], *self.loader.loaded]
        inputs = [panel.seen, compare.seen, form.uploads, form.parts.loras]
        run_after(panel.result.click(self.on_press, inputs, list(dict.fromkeys(changed)), **LOAD), answered())

    def on_press(self, seen: Any, board: Any, uploads: Any, loras: Any, event: gr.EventData) -> Update:
        """A button of a clip was pressed: `act` says which, `job` and `video` on which clip."""
        try:
            job, index = self.service.job(str(event.job), self.access()), int(event.video)
            match event.act:
                case "continue":
                    return self._continue(job, index, uploads)
                case "full":
                    self.service.submit(self._in_full(job, index, loras), self.access())
                    return self.loader.status_panel.follow(seen)
                case "retry":
                    self.service.retry(job.id, self.access())
                    return self.loader.status_panel.follow(seen)
                case "strengths":
                    return self._compare_strengths(job, index, seen, board)
        except WanUIError as error:
            raise error_toast(error) from error
        return {}

    def _continue(self, job: Job, index: int, uploads: Any) -> Update:
        """The form with the clip's settings, a new seed, and its last frame as the first."""
        made = self.service.continue_clip(job.id, index, self.access())
        shown = self.loader.open_request(dict(made.request), 0, uploads)
        return {**shown, self.loader.form.parts.problem: render.notes(made.notes) if made.notes else ""}

    def _wire(self, job: Job, index: int) -> dict[str, Any]:
        generation = job.generations[index]
        wire, _ = self.loader.located(job.request_of(index), [generation])
        return wire

    def _in_full(self, job: Job, index: int, loras: Any) -> dict[str, Any]:
        """The clip's request without its speed LoRA, with the settings that the form keeps for that, if it does."""
        wire = in_full(self._wire(job, index))
        kept = speed_choice.read(loras.get("speed")) if isinstance(loras, Mapping) else None
        if kept is None or kept["id"] != job.generations[index].speed_lora:
            return wire
        full = {name: value for name, value in kept["full"].items() if value not in (None, "")}
        return {**wire, "prompts": [{**full, **wire["prompts"][0]}]}

    def _compare_strengths(self, job: Job, index: int, seen: Any, board: Any) -> Update:
        model = MODELS.get(job.generations[index].model)
        if model is None:
            raise InvalidRequest("This video's model is not supported any more.")
        base = {name: value for name, value in self._wire(job, index).items() if name != "compare"}
        return self.loader.compare.compare_scales(model, base, SCALE_VALUES, seen, board)
