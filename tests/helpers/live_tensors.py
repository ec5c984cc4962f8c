"""The bytes of all tensors that live at the same time: what the figures for machines that we have not got are computed from.

On the meta device it needs neither weights nor a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def account(work: Callable[[], Any], *held: torch.nn.Module) -> int:
    """Bytes of all tensors that live at the same time, at most, while `work` runs, with the weights of `held`.

    On the meta device attention is counted with its whole map of scores, which fused attention does not make: an
    upper bound there. What allocators and libraries take beside the tensors is not counted.
    """
    with _Live() as live:
        work()
    weights = {t.untyped_storage()._cdata: t for module in held for t in (*module.parameters(), *module.buffers())}
    return live.most + sum(t.untyped_storage().nbytes() for t in weights.values())


class _Live(TorchDispatchMode):
    """Watches every operation's results, and which of them are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[Any, int]] = {}
        self.at_most = 0  # what of `alive` was there at its last sorting out, and all that came since
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch.multiprocessing.reductions import StorageWeakRef

        known = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in known:  # else it is a view of what was there before
                    self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
                    self.at_most += storage.nbytes()
        if self.at_most > self.most:
            self.alive = {key: (ref, size) for key, (ref, size) in self.alive.items() if not ref.expired()}
            self.at_most = sum(size for _, size in self.alive.values())
            self.most = max(self.most, self.at_most)
        return result
