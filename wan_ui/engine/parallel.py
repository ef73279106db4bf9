"""One video on several GPUs of a machine: the two guidance predictions side by side, and each one's tokens divided.

Every rank of a group is a process with one GPU and the whole model, and runs the same denoising loop with the same
numbers. Two divisions can be combined. With the tokens divided in two at most, they keep the bits of one GPU:

* guidance: half of the ranks predict with the prompt, the others with the negative prompt. The predictions
  (1, C, T, h, w) are exchanged by an all-gather at each step.
* sequence (Ulysses, Jacobs et al., 2023, arXiv 2309.14509): each of the n ranks keeps N / n of the N tokens through all
  blocks. Around self-attention an all-to-all exchanges tokens against heads, so that each rank attends with all tokens
  and heads / n of the heads; the order of every sum stays that of one GPU. Linear layers, norms and cross-attention
  work on each token by itself. The tokens are divided before the first block and gathered after the output projection.

diffusers' `enable_parallelism` cannot be undone, so the division is installed here with PyTorch's own hooks, for one
video at a time, and removed after it, with an all-to-all of our own (`token_exchange`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from diffusers import WanTransformer3DModel
from torch._C._distributed_c10d import FileStore, Store
from torch.distributed.device_mesh import init_device_mesh

from wan_ui.engine.memory import release
from wan_ui.engine.split import GroupPlace, Split
from wan_ui.engine.token_exchange import DividedAttention, EvenExchange, UnevenExchange, part_sizes
from wan_ui.errors import Cancelled, ExchangeFailed

EXCHANGE_SECONDS = 600.0  # for an exchange of tensors: all ranks are at the same step, and one may build a kernel first
WAIT_SECONDS = 24 * 3600.0  # for the others before the first step: one of them may load its model, or download it
MEETING_SECONDS = 0.05  # between two looks whether the others are there
CHECK_SECONDS = 60.0  # for the exchange of a known tensor, which takes milliseconds
CHECKED_VALUES = 1 << 20  # of that tensor: 4 MB, which NCCL sends through all its channels


@dataclass
class Membership:
    """The group that this process renders with at the moment; None: it renders alone.

    The connections to the other processes stay open between clips, until it joins others: a second NCCL communicator
    between the same two processes failed on H200s (NCCL 2.28).
    """

    group: Group | None = None
    _connections: Connections | None = None

    def join(self, place: GroupPlace, device: torch.device) -> None:
        """Renders with the group of a place from now on. Raises ExchangeFailed, see Connections.group."""
        if self._connections is None or self._connections.rendezvous != place.rendezvous:
            if self._connections is not None:
                self._connections.close()
                self._connections = None
            release(device)  # NCCL takes memory that PyTorch would keep for itself
            self._connections = Connections(place, device)
        self.group = self._connections.group(place)

    def leave(self) -> None:
        """Renders alone from now on."""
        self.group = None


class Connections:
    """This process's connections to the others of a rendezvous, for clips that are divided in one way or another."""

    def __init__(self, place: GroupPlace, device: torch.device) -> None:
        """Waits until all have come: over NCCL on GPUs, over gloo on the CPU."""
        self.rendezvous = place.rendezvous
        self._device = device
        self._store = FileStore(place.rendezvous, place.split.ranks)
        self._groups: dict[Split, Group] = {}
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=self._store,
            rank=place.rank,
            world_size=place.split.ranks,
            timeout=timedelta(seconds=EXCHANGE_SECONDS),
            device_id=device if device.type == "cuda" else None,
        )

    def group(self, place: GroupPlace) -> Group:
        """The group for the next clip. All ranks must ask for the same one.

        Raises ExchangeFailed where a known tensor does not arrive as it was sent. This process must end then: what was
        sent may still be on its way, and can be neither waited for nor called back.
        """
        if place.split not in self._groups:
            group = Group(place.split, self._device, self._store)
            group.check()
            self._groups[place.split] = group
        self._groups[place.split].begin(place.clip)
        return self._groups[place.split]

    def close(self) -> None:
        """Closes them. No transformer is divided outside of `Group.divided`."""
        dist.destroy_process_group()


class Group:
    """The ranks that render one video, after `torch.distributed` was initialised with as many as `split` has.

    Ranks are numbered guidance-major: rank = half × sequence + part. `store` is what they found each other through; it
    lets a rank wait for the others and be cancelled meanwhile.
    """

    def __init__(self, split: Split, device: torch.device, store: Store | None = None) -> None:
        self.split = split
        self.device = device
        self.rank = dist.get_rank()
        self._store = store
        self._clip = self._meetings = 0
        mesh = init_device_mesh(
            device.type, (split.guidance, 1, split.sequence), mesh_dim_names=("guidance", "ring", "ulysses")
        )
        self._halves = mesh["guidance"].get_group()
        self._parts = mesh["ulysses"].get_group()
        # Decisions of the leader, on the CPU. A rank that ends closes its connections, so no short time limit is needed
        # to notice it.
        self._control = dist.new_group(backend="gloo", timeout=timedelta(seconds=WAIT_SECONDS))

    @property
    def half(self) -> int:
        """0: this rank predicts with the prompt; 1: with the negative prompt."""
        return self.rank // self.split.sequence

    @property
    def leads(self) -> bool:
        """Whether this rank decodes the video and answers for the group."""
        return self.rank == 0

    def begin(self, clip: int) -> None:
        """Begins another clip: a rank may have ended the one before after fewer meetings than the others."""
        self._clip, self._meetings = clip, 0

    def check(self, seconds: float = CHECK_SECONDS) -> None:
        """Exchanges a known tensor with the other ranks. Raises ExchangeFailed, see Connections.group.

        Between some GPUs a transfer never ends, or brings other values: where a virtual machine's or a mainboard's I/O
        protection redirects what they send each other.
        """
        for group in (self._halves, self._parts):
            count, end = dist.get_world_size(group), time.monotonic() + seconds
            own = torch.arange(CHECKED_VALUES, dtype=torch.int32, device=self.device) + self.rank
            parts = [torch.empty_like(own) for _ in range(count)]
            work = dist.all_gather(parts, own, group=group, async_op=True)
            while not work.is_completed():
                if time.monotonic() > end:
                    raise ExchangeFailed(f"The GPUs sent each other nothing within {seconds:g} s.")
                time.sleep(0.001)
            work.wait()
            for rank, part in zip(dist.get_process_group_ranks(group), parts, strict=True):
                if not torch.equal(part - rank, own - self.rank):
                    raise ExchangeFailed("The GPUs receive other values than those that were sent.")

    def exchange(self, prediction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both halves' predictions, (with prompt, with negative prompt), from this rank's own."""
        own = prediction.contiguous()
        halves = [torch.empty_like(own) for _ in range(2)]
        dist.all_gather(halves, own, group=self._halves)
        return halves[0], halves[1]

    def together(self, report: Callable[[], None]) -> None:
        """Reports on every rank, and raises Cancelled on all of them where the leader's report did.

        All ranks go on or stop together: one that stopped alone would leave the others waiting for its tokens.
        """
        cancelled: Cancelled | None = None
        try:
            report()
        except Cancelled as error:
            cancelled = error
        flag = torch.tensor([int(cancelled is not None)])
        dist.broadcast(flag, 0, group=self._control)
        if flag:
            raise cancelled or Cancelled("The video was cancelled.")

    def meet(self, report: Callable[[], None]) -> None:
        """Waits until all ranks are here, as long as it takes: one may still load its model.

        `report` is called again and again; what it raises ends the waiting. A rank that leaves the group meanwhile
        leaves no exchange behind that the others have not begun.
        """
        if self._store is None:
            self.all_agree(True)
            return
        self._meetings += 1
        meeting = f"clip {self._clip}, meeting {self._meetings}"
        self._store.set(f"{meeting}, rank {self.rank}", "here")
        while not self._store.check([f"{meeting}, rank {rank}" for rank in range(self.split.ranks)]):
            report()
            time.sleep(MEETING_SECONDS)

    def all_agree(self, holds: bool) -> bool:
        """Whether something holds on every rank. All ranks must ask at the same point."""
        flag = torch.tensor([int(holds)])
        dist.all_reduce(flag, dist.ReduceOp.MIN, group=self._control)
        return bool(flag)

    @contextmanager
    def divided(self, transformers: Sequence[WanTransformer3DModel]) -> Iterator[None]:
        """Within it the transformers' forwards divide their tokens among the ranks of this rank's half."""
        with ExitStack() as stack:
            if self.split.sequence > 1:
                for transformer in transformers:
                    stack.enter_context(self._sequence(transformer))
            yield

    @contextmanager
    def _sequence(self, transformer: WanTransformer3DModel) -> Iterator[None]:
        parts, part = self.split.sequence, self.rank % self.split.sequence
        tokens = 0

        def divide(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.tensor_split(parts, dim=1)[part]

        def rotary(module: Any, arguments: Any, outputs: tuple[torch.Tensor, torch.Tensor]) -> Any:
            nonlocal tokens  # (1, N, 1, head dimension) each
            tokens = outputs[0].shape[1]
            self._use_exchange(transformer, tokens)
            return tuple(divide(output) for output in outputs)

        def conditions(module: Any, arguments: Any, outputs: tuple[Any, ...]) -> Any:
            embedding, projection, *rest = outputs
            if embedding.ndim == 3 and embedding.shape[1] == tokens:  # a timestep for each token
                return divide(embedding), divide(projection), *rest
            return outputs

        def first_block(module: Any, arguments: tuple[Any, ...]) -> Any:
            return divide(arguments[0]), *arguments[1:]

        def output(module: Any, arguments: Any, part_of_output: torch.Tensor) -> torch.Tensor:
            return self._gather(part_of_output, tokens)

        hooks = (
            transformer.rope.register_forward_hook(rotary),
            transformer.condition_embedder.register_forward_hook(conditions),
            transformer.blocks[0].register_forward_pre_hook(first_block),
            transformer.proj_out.register_forward_hook(output),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            remove_exchange(transformer)

    def _use_exchange(self, transformer: WanTransformer3DModel, tokens: int) -> None:
        """Gives the self-attentions the exchange for so many tokens."""
        remove_exchange(transformer)
        parts, heads = self.split.sequence, transformer.config.num_attention_heads
        exchange: EvenExchange | UnevenExchange = EvenExchange(self._parts, parts)
        if tokens % parts or heads % parts:
            sizes = part_sizes(tokens, parts), part_sizes(heads, parts)
            exchange = UnevenExchange(self._parts, self.rank % parts, *sizes)
        for block in transformer.blocks:
            block.attn1.processor = DividedAttention(block.attn1.processor, exchange)

    def _gather(self, part: torch.Tensor, tokens: int) -> torch.Tensor:
        """All tokens (1, N, channels) from each rank's part; shorter parts are padded for the exchange."""
        count = self.split.sequence
        longest = -(-tokens // count)
        short = longest - part.shape[1]
        own = torch.nn.functional.pad(part, (0, 0, 0, short)).contiguous() if short else part.contiguous()
        parts = [torch.empty_like(own) for _ in range(count)]
        dist.all_gather(parts, own, group=self._parts)
        sizes = part_sizes(tokens, count)
        return torch.cat([piece[:, :size] for piece, size in zip(parts, sizes, strict=True)], dim=1)


def remove_exchange(transformer: WanTransformer3DModel) -> None:
    """Gives the self-attentions back the processors of one rank."""
    for block in transformer.blocks:
        if isinstance(block.attn1.processor, DividedAttention):
            block.attn1.processor = block.attn1.processor.original
