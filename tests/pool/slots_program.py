"""A server that is made to be killed: `python -m tests.pool.slots_program DATA_DIR` prints its slots' process ids.

One slot waits for a clip, the other is in the middle of one.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path

from tests.jobs.helpers import body
from tests.pool.helpers import process_slots
from wan_ui.engine.result import Progress, ignore_progress
from wan_ui.request import parse, resolve


def main() -> None:
    first, second = process_slots(Path(sys.argv[1]), 2)
    (generation,) = resolve(parse(body(1)), store_image=str)
    first.render(generation, ignore_progress, lambda: None)
    print(first.pid, flush=True)

    def on_progress(progress: Progress) -> None:
        if progress.step == 1:
            print(second.pid, flush=True)
            threading.Event().wait()

    second.render(replace(generation, prompt="hang"), on_progress, lambda: None)


if __name__ == "__main__":
    main()
