"""What plain diffusers does with each LoRA format, tried on a tiny pipeline: `python -m tests.lora.table` prints it."""

from __future__ import annotations

import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline, WanTransformer3DModel

from tests.golden_cases import CHECKPOINTS
from tests.lora.writers import FORMATS, Width, Written
from wan_ui.lora.convert import convert

TINY = Width(48, 2, 96, 3)
HEADER = "| Format | wan-ui | `load_lora_weights` of diffusers |\n| --- | --- | --- |"
MULTIPLIER = 1.0


def _output(transformer: WanTransformer3DModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        prediction: torch.Tensor = transformer(
            hidden_states=torch.randn(1, 16, 2, 4, 4, generator=generator),
            timestep=torch.tensor([500]),
            encoder_hidden_states=torch.randn(1, 512, 32, generator=generator),
            return_dict=False,
        )[0]
    return prediction


def _known(transformer: WanTransformer3DModel, written: Written) -> torch.Tensor:
    """The output with the known change in the weights; the transformer is the base again afterwards."""
    before = {name: value.clone() for name, value in transformer.state_dict().items()}
    parameters = dict(transformer.named_parameters())
    for target, change in written.expected.items():
        parameter = parameters[target] if target in parameters else parameters[f"{target}.weight"]
        total = parameter.double() + MULTIPLIER * change.reshape(parameter.shape)
        magnitude = (written.magnitudes or {}).get(target)
        if magnitude is not None:
            total = total * (magnitude.double().reshape(-1, 1) / total.norm(dim=1, keepdim=True))
        parameter.data = total.float()
    output = _output(transformer)
    transformer.load_state_dict(before)
    return output


def plain_result(name: str, folder: Path, components: dict[str, Any]) -> str:
    """right, partly, silently nothing, or the error's type, for the slot that the file was written for.

    Its pipeline has copies of the components' transformers.
    """
    written = FORMATS[name](TINY)
    path = written.save(folder / "lora.safetensors")
    fresh = {name: deepcopy(components[name]) for name in ("transformer", "transformer_2")}
    pipe = WanPipeline(**{**components, **fresh})
    transformer = pipe.transformer_2 if written.slot == "low" else pipe.transformer
    base, known = _output(transformer), _known(transformer, written)
    try:
        pipe.load_lora_weights(str(path), adapter_name="x")
    except (KeyError, ValueError, IndexError, RuntimeError, AttributeError, TypeError) as error:
        return f"{type(error).__name__}"
    after = _output(transformer)
    if torch.allclose(after, known, rtol=1e-4, atol=2e-5):
        return "right"
    return "**silently nothing**" if torch.equal(after, base) else "**only part of it**, or wrongly scaled"


def table() -> str:
    """The table of docs/loras.md."""
    lines = [HEADER]
    components = WanPipeline.from_pretrained(CHECKPOINTS / "Wan-AI/Wan2.2-T2V-A14B-Diffusers").components
    with tempfile.TemporaryDirectory() as name:
        for form in FORMATS:
            ours = convert(FORMATS[form](TINY).save(Path(name) / "ours.safetensors"), FORMATS[form](TINY).slot)
            plain = plain_result(form, Path(name), components)
            lines.append(f"| {form} | exact ({len(ours.modules)} changes) | {plain} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
