"""Times the demo as a newcomer meets it: the form's defaults with the load, and a comparison of four LoRA scales.

`python benchmarks/demo.py` starts a fresh process for each, writes the demo into a temporary folder first, and prints
seconds. Aims on two cores: 15 s and 45 s, and 3 s for loading alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PROMPT = "a [trigger] red circle moving left on a navy background"
SCALES = (0.0, 0.5, 0.75, 1.0)
ROWS = ("wan21_1b", "wan22_14b_t2v", "wan22_5b", "wan22_14b_i2v", "wan21_i2v_14b")


def one(folder: Path, model: str, scales: tuple[float, ...]) -> dict[str, float]:
    """Seconds of the imports, of the load with the first clip, of each further clip, and of all together."""
    began = time.perf_counter()
    from tools.demo_evaluate import attached, wire
    from wan_ui import Engine
    from wan_ui.demo.checkpoints import DEMO_DEFAULTS, ensure
    from wan_ui.media.image import Image
    from wan_ui.models import MODELS

    wan_model = MODELS[model]
    imported = time.perf_counter()
    demo = ensure(folder)
    item: dict[str, object] = {"prompt": PROMPT, **DEMO_DEFAULTS}
    if wan_model.control_image == "required":
        import numpy as np

        item["ctrl_img"] = wire(np.asarray(Image.open(demo.first_frame).convert("RGB")))
    engine = Engine(demo.models_dir, demo.lora_dir, "cpu")
    loading: list[float] = []
    clips = []
    for scale in scales:
        body = {"model": model, "trigger_word": "sks", "prompts": [item], "loras": attached(wan_model, scale)}
        clips += engine.generate(
            body, lambda progress: loading.append(time.perf_counter()) if progress.phase == "loading" else None
        )
    ended = time.perf_counter()
    return {
        "imports": imported - began,
        "loading": loading[-1] - loading[0],
        "denoise": clips[-1].metadata["seconds"]["denoise"],
        "decode": clips[-1].metadata["seconds"]["decode"],
        "all": ended - began,
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "demo")
        from wan_ui.demo.checkpoints import ensure

        began = time.perf_counter()
        ensure(folder)
        print(f"writing the demo: {time.perf_counter() - began:.1f} s")
        for model, scales in [(model, (0.0,)) for model in ROWS] + [("wan21_1b", SCALES), ("wan22_14b_i2v", SCALES)]:
            done = subprocess.run(
                [sys.executable, __file__, str(folder), model, *map(str, scales)],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            found = json.loads(done.stdout.splitlines()[-1])
            said = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in found.items())
            print(f"{model:18} {len(scales)} clip(s): {said}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(one(Path(sys.argv[1]), sys.argv[2], tuple(float(scale) for scale in sys.argv[3:]))))
    else:
        main()
