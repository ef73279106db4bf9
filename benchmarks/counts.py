"""What the engine does for a request, counted on the tiny checkpoints: `python -m benchmarks.counts [--json FILE]`.

No clock: the same on every machine. Beside each count stands what a plain server needs that takes one request after the
other: it keeps its model while the next request wants the same one, but encodes each request's prompts and first frame,
attaches its LoRA files, runs all of its steps, and reads a new model whole.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.golden_cases import CHECKPOINTS
from tests.lora_files import write_lora
from wan_ui import Engine
from wan_ui.access import LOCAL_ACCESS
from wan_ui.engine.components import MODULES
from wan_ui.engine.core import Attach, Merge, SetScales, plan, required_state
from wan_ui.engine.result import ignore_progress
from wan_ui.intake import prepare
from wan_ui.models import MODELS
from wan_ui.request import Generation, find_model

STEPS = 6  # enough for both halves of a pair to have some
ONE, PAIR, I2V, OTHER_I2V = "wan21_1b", "wan22_14b_t2v", "wan21_i2v_14b", "wan21_i2v_14b480p"
A, B = "a.safetensors", "b.safetensors"


@dataclass(frozen=True)
class Counts:
    """`forwards` of the transformers, `texts` and `images` through their encoders, `loads` of parts and their `bytes`,
    LoRA files attached (`attaches`) or merged (`merges`) to a transformer, scales set (`weighs`)."""

    forwards: int = 0
    texts: int = 0
    images: int = 0
    loads: int = 0
    bytes: int = 0
    attaches: int = 0
    merges: int = 0
    weighs: int = 0


@dataclass(frozen=True)
class Scenario:
    """A request that is counted, and those that were served before it: the ones of the scenario above, or anew."""

    name: str
    counted: dict[str, Any]
    before: tuple[dict[str, Any], ...] = ()
    anew: bool = False


def body(model: str, *scales: float, file: str = A, **more: Any) -> dict[str, Any]:
    """A small request; `scales` of the file, for each transformer in turn."""
    wan_model = MODELS[model]
    prompt = {"prompt": "a red circle", "width": 64, "height": 64, "num_frames": 5, "sample_steps": STEPS, "seed": 42}
    if wan_model.control_image == "required":
        prompt["ctrl_img"] = _picture()
    slots = [{"transformer": slot} if wan_model.two_transformers else {} for slot in wan_model.slots]
    loras = [{"path": file, "network_multiplier": scale, **slot} for scale, slot in zip(scales, slots, strict=False)]
    return {"model": model, "prompts": [prompt], "loras": loras, "first_step_change": False, **more}


def _picture() -> str:
    kept = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(kept, "PNG")
    return base64.b64encode(kept.getvalue()).decode()


def scenarios() -> tuple[Scenario, ...]:

    def over(field: str) -> dict[str, Any]:
        return {"columns": {"field": field, "values": [0.25, 0.5, 0.75, 1.0]}, "baseline": False}

    return (
        Scenario("one clip", body(ONE, 1.0), anew=True),
        Scenario("the same again", body(ONE, 1.0)),
        Scenario("another scale", body(ONE, 0.5)),
        Scenario("another LoRA", body(ONE, 0.5, file=B)),
        Scenario("another scale, merged (recipe preview)", body(ONE, 0.5, recipe="preview"),
                 before=(body(ONE, 1.0, recipe="preview"),)),
        Scenario("four scales compared", body(ONE, 1.0, compare=over("scale")), anew=True),
        Scenario("four low-noise scales compared, 2.2 T2V", body(PAIR, 1.0, 1.0, compare=over("scale_low")), anew=True),
        Scenario("720P to 480P", body(OTHER_I2V, 1.0), before=(body(I2V, 1.0),), anew=True),
    )  # fmt: skip


def generations(engine: Engine, request: dict[str, Any]) -> Sequence[Generation]:
    """A comparison's in the order in which the engine is asked for them."""
    return prepare(
        request, engine.library, engine.images, engine.checkpoints.transformer_config, LOCAL_ACCESS
    ).generations


def serve(engine: Engine, request: dict[str, Any]) -> Counter[str]:
    """Renders a request; the steps that the engine took for its LoRA files."""
    steps: Counter[str] = Counter()
    for generation in generations(engine, request):
        files = {use.path: engine.library.locate(use.path, LOCAL_ACCESS, use.sha256) for use in generation.loras}
        for step in plan(engine.core.state, required_state(generation, files)):
            match step:
                case Attach(_, adapters, _):
                    steps["attaches"] += len(adapters)
                case Merge(_, merges, _):
                    steps["merges"] += len(merges)
                case SetScales():
                    steps["weighs"] += 1
        engine.render(generation, ignore_progress)
    return steps


def ours(engine: Engine, scenario: Scenario) -> Counts:
    """What the engine does for the counted request."""
    before = _so_far(engine)
    steps = serve(engine, scenario.counted)
    return Counts(**{**{name: count - before[name] for name, count in _so_far(engine).items()}, **steps})


def _so_far(engine: Engine) -> dict[str, int]:
    loader = engine.loader
    return {
        "forwards": loader.forwards.total(),
        "texts": loader.prompts.encodes,
        "images": loader.frames.encodes,
        "loads": loader.statistics.loads,
        "bytes": loader.statistics.bytes_read,
    }


def plain(engine: Engine, scenario: Scenario) -> Counts:
    """What a server without memory needs for the counted request, each of a comparison's cells a request."""
    held = engine.core.state.model if engine.core.state is not None else None
    found: Counter[str] = Counter()
    for generation in generations(engine, scenario.counted):
        model = find_model(generation.model)
        guided = 2 if generation.guidance_scale > 1 else 1
        found["forwards"] += guided * generation.sample_steps
        found["texts"] += guided
        found["images"] += (2 if model.image_layers else 1) if generation.image is not None else 0
        attached = sum(use.scale != 0 for use in generation.loras)
        found["merges" if generation.recipe == "preview" else "attaches"] += attached
        found["weighs"] += 0 if generation.recipe == "preview" else attached
        if model.id != held:
            parts = [engine.checkpoints.folders.component(model, name) for name in model.components if name in MODULES]
            found["loads"] += len(parts)
            found["bytes"] += sum(part.size for part in parts)
            held = model.id
    return Counts(**found)


def measure() -> dict[str, tuple[Counts, Counts]]:
    """By scenario: ours, and plain."""
    found: dict[str, tuple[Counts, Counts]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed, name in enumerate((A, B), start=1):
            write_lora(Path(folder, name), seed=seed)
        engine = Engine(models_dir=CHECKPOINTS, lora_dir=Path(folder), device="cpu")
        for scenario in scenarios():
            if scenario.anew:
                engine.close()
                engine = Engine(models_dir=CHECKPOINTS, lora_dir=Path(folder), device="cpu")
            for request in scenario.before:
                serve(engine, request)
            other = plain(engine, scenario)
            found[scenario.name] = (ours(engine, scenario), other)
        engine.close()
    return found


def table(found: dict[str, tuple[Counts, Counts]]) -> str:
    """Markdown: ours / plain."""
    names = [field.name for field in fields(Counts)]
    lines = [f"| wan-ui / plain | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
    for scenario, (mine, other) in found.items():
        cells = [f"{getattr(mine, name):,} / {getattr(other, name):,}" for name in names]
        lines.append(f"| {scenario} | {' | '.join(cells)} |")
    return "\n".join(lines)


def run(kept: Path | None) -> None:
    """Prints the table and keeps the figures."""
    found = measure()
    print(table(found))
    if kept is not None:
        said = {name: {"wan-ui": asdict(mine), "plain": asdict(other)} for name, (mine, other) in found.items()}
        kept.write_text(json.dumps(said, indent=1) + "\n")


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--json", type=Path, help="where the figures go too")
    run(flags.parse_args().json)


if __name__ == "__main__":
    main()
