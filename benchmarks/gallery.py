"""How long the gallery takes at 10,000 clips, and how many queries: `python -m benchmarks.gallery [clips]`.

The clips are rows alone, spread over 7 models, 40 LoRAs and 20 visitors, one in ten of them within a comparison.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from wan_ui.access import LOCAL_ACCESS
from wan_ui.api.app import create_api
from wan_ui.jobs.gallery import EVERYBODY, Filter, Gallery, Page, own
from wan_ui.jobs.service import JobService
from wan_ui.jobs.store import Store
from wan_ui.jobs.worker import Worker
from wan_ui.lora.library import Library
from wan_ui.media import video
from wan_ui.media.image import ImageStore
from wan_ui.models import MODELS

CLIPS = 10_000
WORDS = [
    "red",
    "blue",
    "quiet",
    "stormy",
    "old",
    "golden",
    "fox",
    "owl",
    "river",
    "harbour",
    "running",
    "sleeping",
    "dancing",
    "at",
    "dusk",
    "in",
    "snow",
]
ROUNDS = 20
CELLS = 9


def fill(store: Store, clips: int) -> None:
    """Rows as finished requests leave them, in one transaction."""
    models, connection, made, number = list(MODELS), store._connection, 0, 0
    connection.execute("BEGIN")
    while made < clips:
        number += 1
        job, compared = f"{number:032x}", number % 82 == 0
        count = min(CELLS if compared else 1, clips - made)
        prompt = " ".join(WORDS[(number * (step + 3)) % len(WORDS)] for step in range(40))
        loras = [
            {"slot": "single", "path": f"job/lora_{number % 40}.safetensors", "multiplier": 1,
             "sha256": f"{number % 40:064x}"}
        ]  # fmt: skip
        generation = {
            "model": models[number % len(models)], "recipe": "reference", "prompt": prompt, "neg": "", "width": 832,
            "height": 480, "num_frames": 81, "fps": 16, "seed": 42, "sample_steps": 25, "guidance_scale": 4.0,
            "image": None, "loras": loras, "requested_width": 832, "requested_height": 480,
            "requested_num_frames": 81, "ignored": [],
        }  # fmt: skip
        cells = [{"column": index, "row": 0, "generation": index} for index in range(count)] if compared else []
        connection.execute(
            """
            INSERT INTO jobs (id, status, request, generations, notes, total, cells, visitor, created_at, finished_at)
            VALUES (?, 'succeeded', '{}', ?, '[]', ?, ?, ?, '2026-01-01', '2026-01-01')
            """,
            (job, json.dumps([generation] * count), count, json.dumps(cells), f"{number % 20:032x}"),
        )
        for index in range(count):
            connection.execute(
                "INSERT INTO clips VALUES (?, ?, 832, 480, 81, 16, 42, ?, '{}', '2026-01-01T00:00:00.000Z')",
                (job, index, f"clips/{number}-{index}.mp4"),
            )
        made += count
    connection.execute("COMMIT")


def measure(store: Store, name: str, call: Callable[[], Page]) -> Page:
    """Says how long a call takes at its median, and how many statements it is."""
    asked: list[str] = []
    store._connection.set_trace_callback(asked.append)
    page = call()
    store._connection.set_trace_callback(None)
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    median, longest = sorted(taken)[ROUNDS // 2], max(taken)
    count = f"{len(asked)} quer{'y' if len(asked) == 1 else 'ies'}"
    print(f"{name:34} {median * 1e3:6.1f} ms (longest {longest * 1e3:.1f}), {count}, {len(page.entries)} entries")
    return page


def main() -> None:
    clips = int(sys.argv[1]) if len(sys.argv) > 1 else CLIPS
    with tempfile.TemporaryDirectory() as name:
        store = Store(Path(name) / "jobs.sqlite")
        fill(store, clips)
        gallery = Gallery(store, Path(name))
        total = gallery.choices(EVERYBODY).entries
        print(f"{clips} clips, {total} entries")
        anything = Filter()

        def first(wanted: Filter = anything) -> Callable[[], Page]:
            return lambda: gallery.page(EVERYBODY, wanted)

        measure(store, "first page", first())
        deep = gallery.page(EVERYBODY, anything)
        for _ in range(int(total / 24 * 0.95)):
            deep = gallery.page(EVERYBODY, anything, deep.older)
        measure(store, "a page at 95 % of the way", lambda: gallery.page(EVERYBODY, anything, deep.older))
        measure(store, "and back", lambda: gallery.page(EVERYBODY, anything, deep.newer))
        measure(store, "one visitor's", lambda: gallery.page(own(f"{7:032x}"), anything))
        measure(store, "one model", first(Filter(model=next(iter(MODELS)))))
        measure(store, "one LoRA, by SHA-256", first(Filter(lora=f"{7:064x}")))
        measure(store, "kept only (none)", first(Filter(kept=True)))
        measure(store, "search, found", first(Filter(words="quiet fox")))
        measure(store, "search, found nowhere", first(Filter(words="elephant")))
        start = time.perf_counter()
        gallery.choices(EVERYBODY)
        print(f"{'what to filter by, at opening':34} {(time.perf_counter() - start) * 1e3:6.1f} ms, 2 queries")
        over_http(store, Path(name))
        store.close()


def over_http(store: Store, folder: Path) -> None:
    """The first page as /v1 answers it, without a network between."""
    worker = Worker(store, never, folder / "clips", video.write)
    images = ImageStore(folder / "images", never)
    service = JobService(Library(folder, folder / "uploads"), images, store, worker, folder)
    client = TestClient(create_api(service, dict, lambda: LOCAL_ACCESS))
    asked: list[str] = []
    store._connection.set_trace_callback(asked.append)
    size = len(client.get("/gallery").content)
    store._connection.set_trace_callback(None)
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        client.get("/gallery")
        taken.append(time.perf_counter() - start)
    median = sorted(taken)[ROUNDS // 2] * 1e3
    print(f"{'first page, as GET /v1/gallery':34} {median:6.1f} ms, {len(asked)} query, {size / 1e3:.0f} kB")


def never(*_: Any) -> Any:
    """Nothing is rendered and nothing fetched here."""
    raise AssertionError


if __name__ == "__main__":
    main()
