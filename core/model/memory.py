"""How much memory there is, how much a part needs, and what it took: what lets large models run on small machines.

    commonart sample "赤い円" --model commonart-beta -o out.png    # on 8 GB the text encoder goes to 4 bits by itself

`account` adds up the tensors that live at the same time. On the meta device it needs neither weights nor a GPU: that
is how README's figures for machines that we have not got were computed.
"""

from __future__ import annotations

import json
import math
import resource
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from commonart.core.log import say
from commonart.core.model.quantize import BITS

if TYPE_CHECKING:
    from commonart.core.model.autoencoder import Autoencoder

ROOM = 1.0e9  # bytes beside the text encoder's weights: activations of a batch of long prompts
SPARE = 0.8  # of what is free, the share that is used: allocators and convolutions want some for themselves
# The decoder's peak: this many numbers a pixel for each channel of its widest full-size layer (measured by `account`).
DECODER = 4.0
SMALLEST_TILE = 256  # pixels


def free(device: torch.device) -> float:
    """Bytes that may still be allocated on `device`; infinite where nobody can say."""
    if device.type == "cuda":
        return (
            torch.cuda.mem_get_info(device)[0]
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
    known = []
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        known.append(int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024)
    with suppress(OSError, ValueError):  # a container's own limit
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text("ascii")) for name in ("max", "current"))
        known.append(limit - used)
    return min(known, default=math.inf)


def peak(device: torch.device) -> int:
    """Bytes that this process has held at most: on a GPU its allocator's, else the whole process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def encoder_bytes(folder: Path, dtype: torch.dtype, quantize: str | None = None) -> int:
    """Bytes of a text encoder's weights once loaded, from the headers of its files alone. Its output head is left out."""
    inner = folder / "text_encoder"
    total = 0.0
    for file in (inner if inner.is_dir() else folder).glob("*.safetensors"):
        for name, shape in _shapes(file):
            numbers = math.prod(shape)
            linear = len(shape) == 2 and "embed" not in name and "shared" not in name
            if not name.startswith("lm_head"):
                total += numbers * (BITS[quantize] / 8 if quantize and linear else dtype.itemsize)
    return int(total)


def fitting(folder: Path, dtype: torch.dtype, device: torch.device) -> str | None:
    """What the text encoder in `folder` must be stored in to fit into the memory of `device`: None for `dtype` itself."""
    room = free(device) - ROOM
    whole = encoder_bytes(folder, dtype)
    if whole <= room:
        return None
    name = next((name for name in BITS if encoder_bytes(folder, dtype, name) <= room), list(BITS)[-1])
    say(
        f"the text encoder takes {whole / 1e9:.1f} GB and {max(room, 0) / 1e9:.1f} GB are free: "
        f"--quantize {name} ({encoder_bytes(folder, dtype, name) / 1e9:.1f} GB); --quantize none forbids it"
    )
    return name


def largest_side(autoencoder: Autoencoder, size: tuple[int, int]) -> int:
    """Pixels of the longer side above which pictures of `size` are decoded in tiles, so that the decoder fits."""
    from commonart.core.model.autoencoder import TILE_ABOVE

    channels = autoencoder.model.config.block_out_channels
    each = DECODER * max(channels[:2]) * autoencoder.dtype.itemsize  # bytes a pixel
    room = free(autoencoder.device) * SPARE
    side, area = TILE_ABOVE, size[0] * size[1]
    while side > SMALLEST_TILE and min(area, side * side) * each > room:
        side //= 2
    return side


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


def _shapes(file: Path) -> list[tuple[str, list[int]]]:
    """(name, shape) of every tensor of a safetensors file: 8 bytes of length, then JSON."""
    with open(file, "rb") as opened:
        try:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length)) if length < 100_000_000 else {}
            return [(name, value["shape"]) for name, value in header.items() if name != "__metadata__"]
        except (ValueError, struct.error, AttributeError, KeyError, TypeError):
            return []  # damaged: loading it will say so
