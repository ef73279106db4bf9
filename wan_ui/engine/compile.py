"""The transformers' blocks as one compiled graph, for every size, rank and multiplier; it knows no request and no file.

The graph is that of one block: all blocks of both transformers share it. Its number of tokens and the ranks of its
adapters are symbols, and multipliers are tensors, so none of them builds another graph.
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
from wan_ui.engine.out_of_memory import is_out_of_memory
from wan_ui.engine.recipes import Recipe

log = logging.getLogger(__name__)

Arithmetic = Literal["exact", "fast"]
"""`exact`: the bits of eager PyTorch; only the passes between its own kernels are fused. `fast`: fused freely."""

BLOCKS_PROVEN_TOGETHER = 3  # by then every graph of a case is built
MOST_GRAPHS = 64  # of one process: seven models in two arithmetics, with and without adapters
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


# What a compiler would compute in another order. Left to PyTorch's own kernels, the rest is rounding step by step.
_OPAQUE: dict[Any, Any] = {
    F.linear: torch.ops.wan_ui.linear.default,
    F.layer_norm: torch.ops.wan_ui.layer_norm.default,
    F.rms_norm: torch.ops.wan_ui.rms_norm.default,
    torch.rms_norm: torch.ops.wan_ui.rms_norm.default,
    F.gelu: torch.ops.wan_ui.gelu.default,
}


def exact_backend(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Graph:
    """Inductor, with every rounding of eager PyTorch kept and its sums left to PyTorch's kernels."""
    from torch._inductor.compile_fx import compile_fx

    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in _OPAQUE:
            node.target = _OPAQUE[node.target]
    module.recompile()
    return cast(Graph, compile_fx(module, list(inputs), config_patches={"emulate_precision_casts": True}))


def fast_backend(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Graph:
    """Inductor as it is, with the fastest attention there is for a clip's own tokens."""
    from torch._inductor.compile_fx import compile_fx

    for node in module.graph.nodes:
        if node.op == "call_function" and node.target is F.scaled_dot_product_attention:
            _attend_faster(node)
    module.recompile()
    return cast(Graph, compile_fx(module, list(inputs)))


def _attend_faster(node: torch.fx.Node) -> None:
    """Gives a self-attention to FlashAttention-4. The few tokens of text and image are left where they are."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    inputs = (*node.args, *(node.kwargs[name] for name in ("query", "key", "value") if name in node.kwargs))[:3]
    query, key = (part.meta["example_value"] for part in cast(Sequence[torch.fx.Node], inputs[:2]))
    plain = node.kwargs.get("attn_mask") is None and not node.kwargs.get("is_causal")
    own_tokens = statically_known_true(query.shape[2] == key.shape[2])
    fits = query.dtype is torch.bfloat16 and query.shape[3] == flash.HEAD
    if plain and own_tokens and fits and flash.available(query.device):
        node.target, node.args, node.kwargs = torch.ops.wan_ui.flash_attention.default, inputs, {}


_BACKENDS: dict[Arithmetic, Backend] = {"exact": exact_backend, "fast": fast_backend}


class BlockCompiler:
    """Which arithmetic a recipe's transformers get, under a mode on a device. `backend` takes the place of Inductor."""

    def __init__(self, mode: CompileMode, device: torch.device, backend: Backend | None = None) -> None:
        self.mode: CompileMode = mode if mode != "auto" else "exact" if device.type == "cuda" else "off"
        self._backend = backend
        self._made: dict[Arithmetic, CompiledBlocks] = {}

    def of(self, recipe: Recipe) -> CompiledBlocks | None:
        """None: eager. Only the reference recipe may be rounded differently; the trainer's previews were eager."""
        if self.mode == "off":
            return None
        arithmetic: Arithmetic = "fast" if self.mode == "fast" and not recipe.whole_bf16 else "exact"
        if arithmetic not in self._made:
            self._made[arithmetic] = CompiledBlocks(arithmetic, self._backend)
        return self._made[arithmetic]


def keep_cache_in(folder: Path) -> None:
    """Compiled kernels are kept there between starts, unless TORCHINDUCTOR_CACHE_DIR names another place."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


class CompiledBlocks:
    """Runs the blocks of the transformers it is installed on through one compiled graph.

    `graphs` counts the graphs that were built. When one cannot be built, or an exact one has other bits than eager,
    the blocks run eagerly from then on and `refused` says why. Blocks that wear a DoRA run eagerly for as long as they
    do: PEFT measures their weights in each forward, in a way that no graph can hold.
    """

    def __init__(self, arithmetic: Arithmetic, backend: Backend | None = None) -> None:
        self.arithmetic = arithmetic
        self.graphs = 0
        self.refused: str | None = None
        self._build = backend or _BACKENDS[arithmetic]
        self._installed: WeakSet[WanTransformer3DModel] = WeakSet()
        self._eager: WeakSet[torch.nn.Module] = WeakSet()
        self._proven: set[tuple[Any, ...]] = set()
        self._together: dict[tuple[Any, ...], int] = {}
        self._wearing = 0
        self._run: Callable[..., torch.Tensor] | None = None
        self._all_agree: Callable[[bool], bool] | None = None

    @contextmanager
    def proven_together(self, all_agree: Callable[[bool], bool]) -> Iterator[None]:
        """Within it, several GPUs run the same blocks: they compare with eager at the same points, and decide as one.

        An eager block may exchange tokens with the other GPUs, so none of them may run it alone.
        """
        self._all_agree = all_agree
        try:
            yield
        finally:
            self._all_agree = None

    def said(self, transformers: Iterable[WanTransformer3DModel]) -> str:
        """For a clip's metadata: what the blocks of its transformers were computed with."""
        if self.refused is not None:
            return f"eager: {self.refused}"
        eager = [block in self._eager for transformer in transformers for block in transformer.blocks]
        if all(eager):
            return "eager: a DoRA is not compiled"
        return f"compiled, {self.arithmetic}" + "; eager where a DoRA is worn" * any(eager)

    def install(self, transformer: WanTransformer3DModel) -> None:
        """Its blocks run compiled from here on."""
        if self._run is None:
            torch._dynamo.config.recompile_limit = MOST_GRAPHS
            torch._dynamo.config.force_parameter_static_shapes = False
            torch._dynamo.config.force_nn_module_property_static_shapes = False
            torch.fx.experimental._config.use_duck_shape = False  # two equal sizes need not stay equal
            forward = type(transformer.blocks[0]).forward
            self._run = torch.compile(forward, backend=self._counted, fullgraph=True, dynamic=False)
        if transformer not in self._installed:
            self._installed.add(transformer)
            for block in transformer.blocks:
                block.forward = partial(self._forward, block)
            self.adapters_changed(transformer)

    def adapters_changed(self, transformer: WanTransformer3DModel) -> None:
        """Told after adapters have come or gone: the ranks of those it wears now are symbols."""
        self._wearing += 1
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
        """Its blocks run eagerly again."""
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
            log.warning("the transformer runs uncompiled from here on", exc_info=error)
            self.refused = "could not be compiled"
            return eager(hidden, text, temb, rotary)
        if self.arithmetic == "exact" and not self._is_proven(hidden, text, temb, result, eager, rotary):
            log.warning("the compiled transformer has other bits than the eager one, and is not used")
            self.refused = "the compiled blocks are not exact on this machine"
            return eager(hidden, text, temb, rotary)
        return result

    def _is_proven(
        self,
        hidden: torch.Tensor,
        text: torch.Tensor,
        temb: torch.Tensor,
        result: torch.Tensor,
        eager: Callable[..., torch.Tensor],
        rotary: tuple[torch.Tensor, torch.Tensor],
    ) -> bool:
        """Whether a block's result has eager's bits: looked at once for each graph, size and change of adapters."""
        shapes = (self._wearing, hidden.shape, text.shape, temb.shape)
        if self._all_agree is not None:
            # How many graphs were built may differ between GPUs: the first few blocks of each case are compared.
            count = self._together.get(shapes, 0)
            if count >= BLOCKS_PROVEN_TOGETHER:
                return True
            self._together[shapes] = count + 1
            return self._all_agree(torch.equal(result, eager(hidden, text, temb, rotary)))
        case = (self.graphs, *shapes)
        if case not in self._proven:
            if not torch.equal(result, eager(hidden, text, temb, rotary)):
                return False
            self._proven.add(case)
        return True
