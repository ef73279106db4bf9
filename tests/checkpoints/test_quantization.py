"""fp8 with and without scales, in both spellings, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wan_ui.checkpoints.headers import read_header
from wan_ui.checkpoints.key_maps import TensorSource
from wan_ui.checkpoints.quantization import Quantization, gguf_bits, read_quantization
from wan_ui.checkpoints.tensors import TensorReader, dequantize
from wan_ui.errors import CheckpointInvalid, CheckpointUnsupported

FP8 = torch.float8_e4m3fn


def marker(conf: object) -> torch.Tensor:
    return torch.tensor(list(json.dumps(conf).encode()), dtype=torch.uint8)


def quantization(
    folder: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> Quantization:
    path = folder / "file.safetensors"
    save_file({name: value.clone() for name, value in tensors.items()}, path, metadata)
    return read_quantization(read_header(path, "file.safetensors"))


WEIGHT = torch.linspace(-3, 3, 32).reshape(4, 8)
SCALE = torch.tensor(0.0123)
OLD = {
    "a.weight": WEIGHT.to(FP8),
    "a.bias": torch.ones(4, dtype=torch.float16),
    "a.scale_weight": SCALE,
    "a.scale_input": torch.tensor(5.0),
    "scaled_fp8": torch.zeros(0, dtype=FP8),
}


def test_the_older_form(tmp_path: Path) -> None:
    found = quantization(tmp_path, OLD)
    assert found.precision == "fp8_scaled"
    assert dict(found.scales) == {"a.weight": "a.scale_weight"}
    assert found.weights == {"a.weight", "a.bias"}


def test_a_prefix_before_the_marker_and_a_scale_of_one_element(tmp_path: Path) -> None:
    prefix = "model.diffusion_model."
    tensors = {prefix + name: value for name, value in OLD.items()}
    tensors[prefix + "scaled_fp8"] = torch.zeros(2, dtype=FP8)
    tensors[prefix + "a.scale_weight"] = SCALE.reshape(1)
    found = quantization(tmp_path, tensors)
    assert dict(found.scales) == {prefix + "a.weight": prefix + "a.scale_weight"}


def test_the_newer_form_by_tensor_and_by_metadata(tmp_path: Path) -> None:
    tensors = {
        "a.weight": WEIGHT.to(FP8),
        "a.weight_scale": SCALE,
        "a.input_scale": torch.tensor(2.0),
        "a.comfy_quant": marker({"format": "float8_e4m3fn", "full_precision_matrix_mult": True}),
    }
    found = quantization(tmp_path, tensors)
    assert found.precision == "fp8_scaled" and found.weights == {"a.weight"}
    del tensors["a.comfy_quant"]
    listed = json.dumps({"layers": {"a": {"format": "float8_e4m3fn"}}})
    assert dict(quantization(tmp_path, tensors, {"_quantization_metadata": listed}).scales) == {
        "a.weight": "a.weight_scale"
    }


@pytest.mark.parametrize(
    ("dtype", "precision"), [(torch.float32, "fp32"), (torch.bfloat16, "bf16"), (torch.float16, "fp16"), (FP8, "fp8")]
)
def test_files_without_scales(tmp_path: Path, dtype: torch.dtype, precision: str) -> None:
    tensors = {"a.weight": WEIGHT.to(dtype), "patch_embedding.weight": torch.ones(1, 2)}
    found = quantization(tmp_path, tensors)
    assert found.precision == found.label == precision and not found.scales


@pytest.mark.parametrize("gone", ["scaled_fp8", "nothing"])
def test_a_missing_scale_is_an_error(tmp_path: Path, gone: str) -> None:
    tensors = {**OLD, "b.weight": WEIGHT.to(FP8)}
    tensors.pop(gone, None)
    with pytest.raises(CheckpointInvalid) as caught:
        quantization(tmp_path, tensors)
    assert caught.value.details == {"file": "file.safetensors", "tensor": "b.weight"}


def test_a_marker_without_any_scale_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointInvalid):
        quantization(tmp_path, {"a.weight": WEIGHT.to(FP8), "scaled_fp8": torch.zeros(0, dtype=FP8)})


@pytest.mark.parametrize("change", [{"a.weight": WEIGHT}, {"b.scale_weight": SCALE}])
def test_a_scale_of_no_fp8_weight_is_an_error(tmp_path: Path, change: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CheckpointInvalid):
        quantization(tmp_path, {**OLD, **change})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"a.scale_weight": torch.ones(4, 1)}, "scales per row or block"),
        ({"a.comfy_quant": marker({"format": "nvfp4"})}, "nvfp4"),
        ({"a.comfy_quant": marker({"format": "mxfp8"})}, "mxfp8"),
        ({"a.comfy_quant": marker({"format": "int8_tensorwise", "convrot": True})}, "int8_tensorwise"),
        ({"a.comfy_quant": marker([1, 2])}, "unknown"),
        ({"a.comfy_quant": torch.tensor([1, 2, 255], dtype=torch.uint8)}, "unknown"),
        ({"a.weight_scale_2": SCALE}, "nvfp4"),
        ({"a.weight": torch.ones(4, 8, dtype=torch.int8)}, "int8"),
        ({"a.weight_scale_inv": torch.ones(1)}, "block-wise"),
        ({"a.qweight": torch.ones(4, dtype=torch.int32)}, "GPTQ"),
    ],
)
def test_other_formats_are_refused_by_name(tmp_path: Path, change: dict[str, torch.Tensor], word: str) -> None:
    with pytest.raises(CheckpointUnsupported) as caught:
        quantization(tmp_path, {**OLD, **change})
    assert word in caught.value.message


@pytest.mark.parametrize("listed", ["[]", "{", '{"layers": 3}', '{"layers": {"a": {"format": "nvfp4"}}}', "[" * 5000])
def test_quantization_metadata_that_is_not_read(tmp_path: Path, listed: str) -> None:
    with pytest.raises(CheckpointUnsupported):
        quantization(tmp_path, OLD, {"_quantization_metadata": listed})


def test_the_formula_rounds_once() -> None:
    """In float32, then to bf16; bf16 products would be other numbers."""
    packed = torch.arange(-128, 128).to(torch.int8).view(FP8)
    packed = packed[packed.float().isfinite()]
    scale = torch.tensor(0.0123456, dtype=torch.float32)
    wanted = torch.tensor([value * scale.item() for value in packed.float().double().tolist()], dtype=torch.float64)
    found = dequantize(packed, scale, torch.bfloat16)
    exact = (packed.float() * scale).to(torch.bfloat16)
    assert torch.equal(found, exact)
    assert torch.allclose(found.double(), wanted, rtol=2**-8)
    assert not torch.equal(found, packed.to(torch.bfloat16) * scale.to(torch.bfloat16))


def test_scale_input_is_never_applied(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_file(OLD, path)
    header = read_header(path, path.name)
    with TensorReader(header, read_quantization(header), {"a": TensorSource("a.weight")}) as reader:
        assert torch.equal(reader.read("a", torch.float32), WEIGHT.to(FP8).float() * SCALE)
        packed, scale = reader.read_packed("a")
    assert packed.dtype is FP8 and scale is not None and scale.shape == ()


@pytest.mark.parametrize(("label", "bits"), [("GGUF Q4_K", 4), ("GGUF Q8_0", 8), ("GGUF BF16", 16), ("GGUF IQ4_XS", 4)])
def test_bits_of_a_gguf_type(label: str, bits: int) -> None:
    assert gguf_bits(label) == bits
