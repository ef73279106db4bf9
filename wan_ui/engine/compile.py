"""Compilation of the transformers' blocks: one graph for every clip size, LoRA rank and LoRA scale.

The graph is that of one block, shared by all blocks of both transformers. Its number of tokens and the ranks of its
adapters are symbolic sizes, and LoRA scales are tensors, so a change of any of them needs no new graph.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast
from weakref import WeakSet

import torch
import torch._dynamo
import torch.fx.experimental._config
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from peft.tuners.lora import LoraLayer

from wan_ui.config import CompileMode
from wan_ui.engine import flash
from wan_ui.engine.kernels import check as check_kernels
from wan_ui.engine.kernels.rewrite import use_kernels
from wan_ui.engine.memory import is_out_of_memory
from wan_ui.engine.recipes import Recipe

log = logging.getLogger(__name__)

Arithmetic = Literal["exact", "fast"]
"""`exact`: the bits of eager PyTorch; only the passes between its own kernels are fused. `fast`: some round once."""

BLOCKS_CHECKED_TOGETHER = 3  # by then every graph of a case is built
PACKED = (torch.float8_e4m3fn, torch.float8_e5m2)  # dtypes of weights that files or a speed-up keep packed
MOST_GRAPHS = 64  # of one process: each model in two arithmetics, with and without adapters
Graph = Callable[..., Any]
Backend = Callable[[torch.fx.GraphModule, Sequence[Any]], Graph]


@torch.library.custom_op("wan_ui::linear", mutates_args=())
def _linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return F.linear(input, weight, bias)


@_linear.register_fake
def _(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return input.new_empty((*input.shape[:-1], weight.shape[0]))


@torch.library.custom_op("wan_ui::layer_norm", mutates_args=())
def _layer_norm(
    input: torch.Tensor,
    normalized_shape: list[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    return F.layer_norm(input, normalized_shape, weight, bias, eps)


@_layer_norm.register_fake
def _(input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return torch.empty_like(input, memory_format=torch.contiguous_format)


@torch.library.custom_op("wan_ui::rms_norm", mutates_args=())
def _rms_norm(
    input: torch.Tensor, normalized_shape: list[int], weight: torch.Tensor | None = None, eps: float | None = None
) -> torch.Tensor:
    return F.rms_norm(input, normalized_shape, weight, eps)


@_rms_norm.register_fake
def _(input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return torch.empty_like(input, memory_format=torch.contiguous_format)


@torch.library.custom_op("wan_ui::gelu", mutates_args=())
def _gelu(input: torch.Tensor, approximate: str = "none") -> torch.Tensor:
    return F.gelu(input, approximate=approximate)


@_gelu.register_fake
def _(input: torch.Tensor, approximate: str = "none") -> torch.Tensor:
    return torch.empty_like(input)


# Operations whose sums Inductor would compute in another order, and so with other bits. As custom operators they are
# opaque to it and stay PyTorch's own kernels; what is left to fuse is elementwise, rounded step by step.
_OPAQUE: dict[Any, Any] = {
    F.linear: torch.ops.wan_ui.linear.default,
    F.layer_norm: torch.ops.wan_ui.layer_norm.default,
    F.rms_norm: torch.ops.wan_ui.rms_norm.default,
    torch.rms_norm: torch.ops.wan_ui.rms_norm.default,
    F.gelu: torch.ops.wan_ui.gelu.default,
}


def exact_backend(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Graph:
    """The graph with our kernels in it, each of which keeps every rounding of eager PyTorch.

    Where weights are packed in fp8, Inductor fuses what packs and unpacks them: `emulate_precision_casts` keeps the
    cast to bfloat16 after each fused operation, where it would otherwise go on in float32.
    """
    use_kernels(module.graph, exact=True)
    if not _has_packed_weights(module.graph):
        return _without_inductor(module)
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in _OPAQUE:
            node.target = _OPAQUE[node.target]
    return _with_inductor(module, inputs, {"emulate_precision_casts": True})


def fast_backend(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Graph:
    """The same with kernels that round once, and FlashAttention-4 for self-attention where it is available."""
    use_kernels(module.graph, exact=False)
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target is F.scaled_dot_product_attention:
            _use_flash_attention(node)
    return _with_inductor(module, inputs, {}) if _has_packed_weights(module.graph) else _without_inductor(module)


def _without_inductor(module: torch.fx.GraphModule) -> Graph:
    """Runs the graph's operations one by one. Raises what Triton raises where kernels cannot be built."""
    devices = {node.meta["example_value"].device for node in _tensors(module.graph)}
    for device in devices:
        if device.type == "cuda":
            check_kernels(device)
    module.recompile()
    return module.forward


def _with_inductor(module: torch.fx.GraphModule, inputs: Sequence[Any], options: dict[str, Any]) -> Graph:
    from torch._inductor.compile_fx import compile_fx

    module.recompile()
    return cast(Graph, compile_fx(module, list(inputs), config_patches=options))


def _tensors(graph: torch.fx.Graph) -> Iterator[torch.fx.Node]:
    """The inputs of a graph that are tensors."""
    for node in graph.find_nodes(op="placeholder"):
        if isinstance(node.meta.get("example_value"), torch.Tensor):
            yield node


def _has_packed_weights(graph: torch.fx.Graph) -> bool:
    return any(node.meta["example_value"].dtype in PACKED for node in _tensors(graph))


def _use_flash_attention(node: torch.fx.Node) -> None:
    """Replaces a self-attention by FlashAttention-4; cross-attention to the few text and image tokens is left."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    inputs = (*node.args, *(node.kwargs[name] for name in ("query", "key", "value") if name in node.kwargs))[:3]
    query, key = (part.meta["example_value"] for part in cast(Sequence[torch.fx.Node], inputs[:2]))
    plain = node.kwargs.get("attn_mask") is None and not node.kwargs.get("is_causal")
    is_self_attention = statically_known_true(query.shape[2] == key.shape[2])
    fits = query.dtype is torch.bfloat16 and query.shape[3] == flash.HEAD
    if plain and is_self_attention and fits and flash.available(query.device):
        node.target, node.args, node.kwargs = torch.ops.wan_ui.flash_attention.default, inputs, {}


_BACKENDS: dict[Arithmetic, Backend] = {"exact": exact_backend, "fast": fast_backend}


class BlockCompiler:
    """Chooses the arithmetic of a recipe under a compile mode on a device. `backend` replaces what runs the graph."""

    def __init__(self, mode: CompileMode, device: torch.device, backend: Backend | None = None) -> None:
        self.mode: CompileMode = mode if mode != "auto" else "exact" if device.type == "cuda" else "off"
        self._backend = backend
        self._made: dict[Arithmetic, CompiledBlocks] = {}

    def of(self, recipe: Recipe) -> CompiledBlocks | None:
        """The compiled blocks for a recipe, or None for eager.

        Only the reference recipe may be rounded differently: the trainer's previews were computed eagerly.
        """
        if self.mode == "off":
            return None
        arithmetic: Arithmetic = "fast" if self.mode == "fast" and not recipe.whole_bf16 else "exact"
        if arithmetic not in self._made:
            self._made[arithmetic] = CompiledBlocks(arithmetic, self._backend)
        return self._made[arithmetic]


def keep_cache_in(folder: Path) -> None:
    """Keeps compiled kernels in `folder` between starts, unless TORCHINDUCTOR_CACHE_DIR names another one."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))  # else in the home folder, which may be read-only


class CompiledBlocks:
    """Runs the blocks of the transformers it is installed on through one compiled graph.

    `graphs` counts the graphs that were built. When one cannot be built, or an exact one has other bits than eager,
    the blocks run eagerly from then on and `refused` says why. Blocks with a DoRA run eagerly while it is attached:
    PEFT computes the norms of their weights in each forward, in a way that cannot be captured in a graph.
    """

    def __init__(self, arithmetic: Arithmetic, backend: Backend | None = None) -> None:
        self.arithmetic = arithmetic
        self.graphs = 0
        self.refused: str | None = None
        self._build = backend or _BACKENDS[arithmetic]
        self._installed: WeakSet[WanTransformer3DModel] = WeakSet()
        self._eager: WeakSet[torch.nn.Module] = WeakSet()
        self._verified: set[tuple[Any, ...]] = set()
        self._checked_together: dict[tuple[Any, ...], int] = {}
        self._all_agree: Callable[[bool], bool] | None = None
        self._division = ""
        self._adapter_changes = 0
        self._run: Callable[..., torch.Tensor] | None = None

    @contextmanager
    def checked_together(self, all_agree: Callable[[bool], bool], division: str) -> Iterator[None]:
        """Within it, several GPUs run the same blocks: they compare with eager at the same points, and decide as one.

        An eager block may exchange tokens with the other GPUs, so none of them may run it alone. What was compared
        before in the same `division` (how the GPUs divide a video) counts where it does on each of them: one may have
        rendered other clips, or have been started anew.
        """
        self._checked_together = {}
        if not all_agree(self.refused is None):
            self.refused = self.refused or "another GPU of the group cannot run them compiled"
        self._all_agree, self._division = all_agree, division
        try:
            yield
        finally:
            self._all_agree, self._division = None, ""

    def arithmetic_of(self, transformers: Iterable[WanTransformer3DModel]) -> str:
        """What the blocks of these transformers are computed with, for a clip's metadata."""
        if self.refused is not None:
            return f"eager: {self.refused}"
        eager = [block in self._eager for transformer in transformers for block in transformer.blocks]
        if all(eager):
            return "eager: a DoRA is not compiled"
        return f"compiled, {self.arithmetic}" + "; eager where a DoRA is attached" * any(eager)

    def install(self, transformer: WanTransformer3DModel) -> None:
        """Runs the transformer's blocks compiled from now on."""
        if self._run is None:
            torch._dynamo.config.recompile_limit = MOST_GRAPHS
            torch._dynamo.config.force_parameter_static_shapes = False
            torch._dynamo.config.force_nn_module_property_static_shapes = False
            torch.fx.experimental._config.use_duck_shape = False  # two sizes that are equal now may differ later
            forward = type(transformer.blocks[0]).forward
            self._run = torch.compile(forward, backend=self._counted, fullgraph=True, dynamic=False)
        if transformer not in self._installed:
            self._installed.add(transformer)
            for block in transformer.blocks:
                block.forward = partial(self._forward, block)
            self.adapters_changed(transformer)

    def adapters_changed(self, transformer: WanTransformer3DModel) -> None:
        """Called after adapters were attached or detached: marks the ranks of those attached now as symbolic sizes."""
        self._adapter_changes += 1
        for block in transformer.blocks:
            self._eager.discard(block)
            for module in block.modules():
                if isinstance(module, LoraLayer):
                    for name in module.r:
                        torch._dynamo.maybe_mark_dynamic(module.lora_A[name].weight, 0)
                        torch._dynamo.maybe_mark_dynamic(module.lora_B[name].weight, 1)
                    if module.lora_magnitude_vector:
                        self._eager.add(block)

    def remove(self, transformer: WanTransformer3DModel) -> None:
        """Runs the transformer's blocks eagerly again."""
        self._installed.discard(transformer)
        for block in transformer.blocks:
            block.__dict__.pop("forward", None)

    def _counted(self, module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Graph:
        self.graphs += 1
        return self._build(module, inputs)

    def _forward(
        self,
        block: torch.nn.Module,
        hidden: torch.Tensor,
        text: torch.Tensor,
        temb: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        eager: Callable[..., torch.Tensor] = partial(type(block).forward, block)
        if self.refused is not None or self._run is None or block in self._eager:
            return eager(hidden, text, temb, rotary)
        for per_token in (hidden, *rotary, *((temb,) if temb.ndim == 4 else ())):
            torch._dynamo.maybe_mark_dynamic(per_token, 1)
        graphs = self.graphs
        try:
            result: torch.Tensor = self._run(block, hidden, text, temb, rotary)
        except RuntimeError as error:
            compiling = self.graphs > graphs or isinstance(error, torch._dynamo.exc.TorchDynamoException)
            if is_out_of_memory(error) or not compiling:
                raise
            log.warning("compilation failed, the transformer runs eagerly from now on", exc_info=error)
            self.refused = "could not be compiled"
            if self._all_agree is not None:
                raise  # the others may be in the middle of this block, and cannot be told to begin it again
            return eager(hidden, text, temb, rotary)
        if self.arithmetic == "exact" and not self._is_verified(hidden, text, temb, result, eager, rotary):
            log.warning("the compiled transformer does not reproduce eager bits on this machine, and is not used")
            self.refused = "the compiled blocks are not exact on this machine"
            return eager(hidden, text, temb, rotary)
        return result

    def _is_verified(
        self,
        hidden: torch.Tensor,
        text: torch.Tensor,
        temb: torch.Tensor,
        result: torch.Tensor,
        eager: Callable[..., torch.Tensor],
        rotary: tuple[torch.Tensor, torch.Tensor],
    ) -> bool:
        """Whether a block's result has eager's bits; checked once for each graph, size and change of adapters."""
        shapes = (self._division, self._adapter_changes, hidden.shape, text.shape, temb.shape)
        case = (self.graphs, *shapes)
        if self._all_agree is not None:
            # How many graphs were built may differ between GPUs: they ask each other at the first few blocks of a case.
            count = self._checked_together.get(shapes, 0)
            if count >= BLOCKS_CHECKED_TOGETHER:
                return True
            self._checked_together[shapes] = count + 1
        all_agree = self._all_agree or bool
        if all_agree(case in self._verified):
            return True
        if not all_agree(torch.equal(result, eager(hidden, text, temb, rotary))):
            return False
        self._verified.add(case)
        return True
