"""Weights, gradients, average and optimizer state in parts, one on each process: FSDP2 (arXiv 2304.11277, `fully_shard`).

Each process holds its rows of every parameter; a block's are gathered for its forward and backward pass and let go after it.
Checkpoints hold whole tensors all the same, so that a run goes on with or without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def shard_model(model: nn.Module, device: torch.device, size: int) -> nn.Module:
    """Put `model` on `device`, cut into `size` parts block by block, in place; its parameters become DTensors."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (size,))
    for block in cast(nn.ModuleList, model.transformer_blocks):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def local_shard(tensor: Tensor) -> Tensor:
    """Return this process's part of `tensor`, or all of it where it is not cut."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(full: Tensor, shard: Tensor) -> Tensor:
    """Return `full` on the device of `shard`, and cut as that is."""
    if not isinstance(shard, DTensor) or full.shape != shard.shape:
        return full.to(shard.device)
    # Every process has read all of it: nothing has to be sent.
    return distribute_tensor(full.to(shard.device), shard.device_mesh, shard.placements, src_data_rank=None)


def full_tensor(tensor: Tensor) -> Tensor:
    """Return all of `tensor`. Every process calls it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Return each full tensor, on the CPU where it was cut; nothing where not `keep`. Every process calls it together."""
    full = {}
    for name, tensor in tensors.items():
        gathered = full_tensor(tensor.detach())
        if keep:
            full[name] = gathered.cpu() if isinstance(tensor, DTensor) else gathered
    return full
