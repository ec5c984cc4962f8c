"""The processes that train together: one, or many through accelerate (DistributedDataParallel, or FSDP2 where asked for)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from commonart.core.errors import first_line
from commonart.core.launch import AGAIN, PeerGone, world_size
from commonart.core.model.device import pick_device
from commonart.core.training import fsdp as fsdp2
from commonart.core.training import rendezvous

# What gloo and NCCL say when the other side of a connection is no more.
_LOST = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe", "Timed out")


@dataclass(slots=True)
class World:
    """This process among all: `rank` of `size`, on `device`. Make one with `join`."""

    device: torch.device
    rank: int = 0
    size: int = 1
    accelerator: Any = None
    control: Any = None  # a process group on the CPU, for agreements that must not wait for the GPU
    fsdp: bool = False

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of the model only; one alone holds all of it."""
        return self.fsdp and self.accelerator is not None

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return `model` on this world's device, with its gradients averaged over all processes."""
        if self.sharded:  # part by part: the whole of it need not fit there
            return fsdp2.shard_model(model, self.device, self.size)
        model.to(self.device)
        return model if self.accelerator is None else self.accelerator.prepare_model(model)

    @contextmanager
    def accumulate(self, model: nn.Module, last: bool) -> Iterator[None]:
        """Gradients are exchanged in the last of a step's micro batches only; sharded ones in each, to hold no whole one."""
        if self.accelerator is None or self.sharded or last:
            yield
        else:
            with self.accelerator.no_sync(model):
                yield

    def all_reduce_max(self, *values: float) -> tuple[float, ...]:
        """Return the largest of each value over all processes: what they agree on."""
        if self.accelerator is None:
            return values
        reduced = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(reduced, torch.distributed.ReduceOp.MAX, group=self.control)
        return tuple(reduced.tolist())

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all processes, on the CPU."""
        values = values.detach().cpu().clone()
        if self.accelerator is not None:
            torch.distributed.all_reduce(values, group=self.control)
        return values

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.accelerator is not None:
            torch.distributed.barrier(group=self.control)

    @contextmanager
    def peer_errors(self) -> Iterator[None]:
        """Turn the transport's error after another process has ended into a sentence."""
        try:
            yield
        except RuntimeError as error:
            lost = isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in _LOST)
            if self.accelerator is None or not lost:
                raise
            what = f"Another training process has gone, says process {self.rank} of {self.size}: {first_line(error)}."
            raise PeerGone(what, AGAIN) from error

    def shutdown(self) -> None:
        """End the group, so that the next run of this process can make its own."""
        if self.accelerator is not None:
            self.accelerator.end_training()


def join(device: str = "auto", fsdp: bool = False) -> World:
    """Return the world that the environment describes (RANK, WORLD_SIZE, MASTER_ADDR, ...), or this process alone.

    Raises as `rendezvous.init_process_group` does.
    """
    size, chosen = world_size(), pick_device(device)
    if size == 1:
        return World(chosen)
    from accelerate import Accelerator, DistributedDataParallelKwargs

    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if not torch.distributed.is_initialized():
        rendezvous.init_process_group("nccl" if chosen.type == "cuda" else "gloo", size)
    # Else the gradients are held twice: as they are, and in the buckets that are exchanged.
    once = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    accelerator = Accelerator(cpu=chosen.type == "cpu", kwargs_handlers=[once])
    control = torch.distributed.new_group(backend="gloo")
    return World(accelerator.device, accelerator.process_index, accelerator.num_processes, accelerator, control, fsdp)
