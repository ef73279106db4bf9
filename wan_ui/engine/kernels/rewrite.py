"""Finds, in the graph of a Wan block, the operations that have a kernel, and puts their operators there.

It reads the graph that Dynamo captured, before it is lowered: calls of diffusers and PEFT by their own names. What it
does not recognise it leaves as it is, so that another version of a library costs speed and no correctness.
"""

from __future__ import annotations

import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch.fx import Graph, Node

from wan_ui.engine.kernels import HEAD, ROW_MULTIPLE, operators

_CASTS = ("float", "to", "type_as")
_EVEN, _ODD = (Ellipsis, slice(0, None, 2)), (Ellipsis, slice(1, None, 2))
_ADAPTER: Any = operators.add_adapter._opoverload
_WITH_RESIDUAL: Any = operators.add_adapter_residual._opoverload


def use_kernels(graph: Graph, exact: bool) -> Mapping[str, int]:
    """Puts the kernels' operators into a block's graph. How many of each there are then.

    A graph that is not exact rounds an adapter's sum once. Its norms and rotary embedding are the exact ones, which are
    faster than what Inductor builds.
    """
    used: Counter[str] = Counter()
    used["reduce_together"] = _join_reductions(graph)
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is _ADAPTER:
            node.args = (*node.args[:4], exact)
            used[_extend_adapter(graph, node)] += 1
        elif node.op == "call_function" and node.target is F.layer_norm:
            used["layer_norm"] += _replace_layer_norm(graph, node)
        elif node.op == "call_function" and node.target in (torch.rms_norm, F.rms_norm):
            used["rms_norm_rotary"] += _replace_rotary(graph, node)
    for node in graph.find_nodes(op="call_function", target=operator.mul):
        used["gated_residual"] += _replace_gated(graph, node)
    graph.eliminate_dead_code()
    graph.lint()
    return +used


def _join_reductions(graph: Graph) -> int:
    """The first products of adapters that read one input, as one product of which each takes its part."""
    readers: defaultdict[Node, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        reduction = node.args[1] if node.op == "call_function" and node.target is _ADAPTER else None
        if reduction is not None and _is(reduction, torch._C._nn.linear) and reduction.args[2:3] in ((), (None,)):
            readers[reduction.args[0]].append(reduction)
    joined = 0
    for hidden, group in readers.items():
        downs = [cast(Node, reduction.args[1]) for reduction in group]
        if len(group) > 1 and len({_dtype(part) for part in (hidden, *downs)}) == 1:
            _join(graph, hidden, downs, group)
            joined += 1
    return joined


def _join(graph: Graph, hidden: Node, downs: list[Node], group: list[Node]) -> None:
    with graph.inserting_before(group[0]):
        ranks = [graph.call_method("size", (down, 0)) for down in downs]
        together = graph.call_function(operators.reduce_together._opoverload, (hidden, downs))
        parts = graph.call_function(torch.split, (together, ranks, -1))
        taken = [graph.call_function(operator.getitem, (parts, index)) for index in range(len(group))]
    for reduction, part in zip(group, taken, strict=True):
        part.meta["example_value"] = reduction.meta["example_value"]
        reduction.replace_all_uses_with(part)
        graph.erase_node(reduction)


def _value(node: Any) -> torch.Tensor:
    """The tensor without data that Dynamo traced a node with."""
    return cast(torch.Tensor, node.meta["example_value"])


def _dtype(node: Any) -> torch.dtype:
    return _value(node).dtype


def _is_cast(node: Node) -> bool:
    return node.op == "call_method" and node.target in _CASTS


def _is_idle(node: Node) -> bool:
    """Whether a node gives its first input unchanged: a cast to the same dtype, or a dropout of nothing."""
    if node.op == "call_function" and node.target is F.dropout:
        return bool(node.args[1] == 0.0) or node.args[2:3] == (False,)
    return _is_cast(node) and _dtype(node) == _dtype(node.args[0])


def _sole_user(node: Node) -> Node | None:
    """The one node that uses this one's value, behind those that give it unchanged."""
    while len(node.users) == 1:
        user = next(iter(node.users))
        if not _is_idle(user):
            return user
        node = user
    return None


def _end_of_idle(node: Node) -> Node:
    """The last of the nodes behind this one that give its value unchanged."""
    while len(node.users) == 1 and _is_idle(next(iter(node.users))):
        node = next(iter(node.users))
    return node


def _source(node: Node) -> Node:
    """What a chain of casts that lose nothing began with."""
    while _is_cast(node) and _dtype(node.args[0]).itemsize <= _dtype(node).itemsize:
        node = cast(Node, node.args[0])
    return node


def _is(node: Node | None, function: Callable[..., Any]) -> bool:
    return node is not None and node.op == "call_function" and node.target is function


def _other(node: Node, known: Node) -> Any:
    """The other of a binary node's two inputs. `known` may stand behind nodes that give it unchanged."""
    return node.args[1] if _through_idle(node.args[0]) is known else node.args[0]


def _through_idle(node: Any) -> Any:
    while isinstance(node, Node) and node.op.startswith("call") and _is_idle(node):
        node = node.args[0]
    return node


def _put(graph: Graph, old: Node, target: Any, arguments: tuple[Any, ...]) -> Node:
    """A node in another's place; what only the other needed is gone."""
    with graph.inserting_before(old):
        new = graph.call_function(target, arguments)
    new.meta["example_value"] = old.meta["example_value"]
    old.replace_all_uses_with(new)
    _drop(graph, old)
    return new


def _drop(graph: Graph, node: Node) -> None:
    if node.users or not node.op.startswith("call"):
        return
    inputs = node.all_input_nodes
    graph.erase_node(node)
    for source in inputs:
        _drop(graph, source)


def _replace_layer_norm(graph: Graph, norm: Node) -> int:
    """norm(hidden.float()), modulated or not, and cast back to hidden's dtype."""
    if norm.kwargs or len(norm.args) != 5:
        return 0
    source, shape, weight, bias, eps = norm.args
    hidden = _source(cast(Node, source))
    if len(cast(Any, shape)) != 1 or _dtype(hidden) is torch.float32 or not _wide(hidden):
        return 0
    scale = shift = None
    end = _sole_user(norm)
    if _is(end, operator.mul):
        product = cast(Node, end)
        factor = _other(product, norm)
        total = _sole_user(product)
        if not (_is(factor, operator.add) and factor.args[0] == 1 and _is(total, operator.add)):
            return 0
        scale, shift = factor.args[1], _other(cast(Node, total), product)
        end = _sole_user(cast(Node, total))
    if end is None or not _is_cast(end) or _dtype(end) != _dtype(hidden):
        return 0
    _put(graph, end, operators.layer_norm_modulated._opoverload, (hidden, weight, bias, scale, shift, eps))
    return 1


def _wide(node: Node) -> bool:
    width = _value(node).shape[-1]
    return isinstance(width, int) and width % ROW_MULTIPLE == 0


def _replace_rotary(graph: Graph, norm: Node) -> int:
    """rms_norm(x) as heads, whose pairs of channels are turned by cosines and sines into an empty tensor."""
    heads = next(iter(norm.users)) if len(norm.users) == 1 else None
    if heads is None or norm.kwargs or len(norm.args) != 4 or heads.target != "unflatten" or not _wide(norm):
        return 0
    out = _user(heads, lambda node: node.target is torch.empty_like)
    final = _user(heads, lambda node: node.target == "type_as")
    pairs = _user(heads, lambda node: node.target == "unflatten" and node.args[1:] == (-1, (-1, 2)))
    if out is None or final is None or pairs is None or len(heads.users) != 3 or final.args != (out, heads):
        return 0
    even = _user(out, lambda node: node.target is operator.setitem and node.args[1] == _EVEN)
    odd = _user(out, lambda node: node.target is operator.setitem and node.args[1] == _ODD)
    if even is None or odd is None or len(out.users) != 3:
        return 0
    angles = _turned(pairs, even.args[2], odd.args[2])
    if angles is None or any(_value(part).shape[-1] != HEAD or _dtype(part) is not torch.float32 for part in angles):
        return 0
    graph.erase_node(even)
    graph.erase_node(odd)
    hidden, _, weight, eps = norm.args
    with graph.inserting_before(final):
        new = graph.call_function(operators.rms_norm_rotary._opoverload, (hidden, weight, eps, *angles))
        new.meta["example_value"] = norm.meta["example_value"]
        shaped = graph.call_method("unflatten", (new, *heads.args[1:]))
        shaped.meta["example_value"] = heads.meta["example_value"]
    final.replace_all_uses_with(shaped)
    _drop(graph, final)
    return 1


def _user(node: Node, which: Callable[[Node], bool]) -> Node | None:
    return next((user for user in node.users if which(user)), None)


def _turned(pairs: Node, even: Any, odd: Any) -> tuple[Node, Node] | None:
    """The cosines and sines of (x₁ cos − x₂ sin, x₁ sin + x₂ cos), or None where that is not what is written."""
    unbound = next(iter(pairs.users))
    if not (_is(even, operator.sub) and _is(odd, operator.add)):
        return None
    terms = [_factors(unbound, term) for node in (even, odd) for term in node.args]
    if None in terms:
        return None
    (first, cosine), (second, sine), (third, also_sine), (fourth, also_cosine) = cast(Any, terms)
    angles = cosine.args[0], sine.args[0]
    as_written = (first, second, third, fourth) == (0, 1, 0, 1) and (cosine, sine) == (also_cosine, also_sine)
    sliced = cosine.args[1] == _EVEN and sine.args[1] == _ODD
    return cast(tuple[Node, Node], angles) if as_written and sliced else None


def _factors(unbound: Node, term: Any) -> tuple[int, Node] | None:
    """Which half of the pairs a product has, and the slice of the angles that it is multiplied with."""
    if not _is(term, operator.mul):
        return None
    half, angle = term.args
    if not (_is(half, operator.getitem) and half.args[0] is unbound and _is(angle, operator.getitem)):
        return None
    return half.args[1], angle


def _extend_adapter(graph: Graph, adapter: Node) -> str:
    """Takes what follows an adapter into it: GELU, or the addition to the residual, gated or not."""
    user = _sole_user(adapter)
    if user is None or _dtype(adapter) != _dtype(adapter.args[0]):
        return "add_adapter"
    base, exact = adapter.args[:4], adapter.args[4]
    if _is(user, torch._C._nn.gelu) and user.kwargs.get("approximate") == "tanh":
        _put(graph, user, operators.add_adapter_gelu._opoverload, (*base, exact))
        return "add_adapter_gelu"
    last = _end_of_idle(adapter)
    if _is(user, operator.add) and _dtype(user.args[0]) == _dtype(user.args[1]) == _dtype(adapter):
        residual = user.args[0] if user.args[1] is last else user.args[1]
        if _value(residual).shape == _value(adapter).shape:
            _put(graph, user, _WITH_RESIDUAL, (*base, residual, None, exact))
            return "add_adapter_residual"
    if _is_cast(user) and _dtype(user) is torch.float32:
        last, user = user, _sole_user(user)
    if _is(user, operator.mul):
        return _extend_gated(graph, adapter, last, cast(Node, user))
    return "add_adapter"


def _extend_gated(graph: Graph, adapter: Node, last: Node, product: Node) -> str:
    found = _gated(product, last, adapter)
    if found is None:
        return "add_adapter"
    end, residual, gate = found
    _put(graph, end, _WITH_RESIDUAL, (*adapter.args[:4], residual, gate, adapter.args[4]))
    return "add_adapter_residual"


def _replace_gated(graph: Graph, product: Node) -> int:
    """(residual.float() + hidden * gate).to(dtype) behind a layer without an adapter."""
    last = cast(Node, product.args[0])
    found = _gated(product, last, _source(last)) if _is_row(last) else None
    if found is None:
        return 0
    end, residual, gate = found
    _put(graph, end, operators.gated_residual._opoverload, (_source(last), residual, gate))
    return 1


def _is_row(node: Any) -> bool:
    """Whether a node is a tensor with at least one axis."""
    value = node.meta.get("example_value") if isinstance(node, Node) else None
    return isinstance(value, torch.Tensor) and value.ndim > 0


def _gated(product: Node, last: Node, change: Node) -> tuple[Node, Node, Node] | None:
    """Where `change`, as `last` a gate times it, is added to a residual: the sum's cast, the residual, and the gate."""
    gate = product.args[1] if product.args[0] is last else product.args[0]
    total = _sole_user(product)
    end = _sole_user(total) if total is not None and _is(total, operator.add) else None
    if total is None or end is None or not _is_cast(end) or _dtype(end) != _dtype(change):
        return None
    widened = total.args[0] if total.args[1] is product else total.args[1]
    if not _is_row(gate) or not _is_row(widened) or _dtype(gate) is not torch.float32:
        return None  # times one number, bfloat16 is not computed in float32
    residual = _source(cast(Node, widened))
    if _dtype(residual) != _dtype(change) or _value(residual).shape != _value(change).shape:
        return None
    return end, residual, cast(Node, gate)
