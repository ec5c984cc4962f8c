"""How much memory is free, how much a model needs, and what it took: what lets large models run on small machines."""

from __future__ import annotations

import json
import math
import os
import re
import resource
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import torch

from commonart.core.log import say
from commonart.core.model.quantize import BITS

if TYPE_CHECKING:
    from commonart.core.model.autoencoder import Autoencoder

ROOM = 1.0e9  # bytes beside the text encoder's weights: activations of a batch of long prompts
SPARE = 0.8  # of what is free, the share that is used: allocators and convolutions want some for themselves
# The decoder's peak: this many numbers a pixel for each channel of its widest full-size layer (tests/model/test_memory.py).
DECODER = 4.0
SMALLEST_TILE = 256  # pixels


def free(device: torch.device, root: Path = Path("/")) -> float:
    """Return the bytes that this process may still allocate on `device`; infinite where the system does not say.

    Of a GPU: what its driver says, and what torch's allocator holds in reserve. Else the least of what the machine has
    available and what every cgroup above this process (a container's, a Slurm job's or step's) leaves of its limit, shared
    by the training processes of one machine (LOCAL_WORLD_SIZE). `root`: of /proc and /sys.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    known = min((*_machine(root), *_cgroups(root)), default=math.inf)
    return max(known, 0) / max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _machine(root: Path) -> Iterator[int]:
    """What the machine has available: Linux counts what its page cache would give back, other systems only free pages."""
    with suppress(OSError, StopIteration, ValueError):
        lines = (root / "proc/meminfo").read_text("ascii").splitlines()
        yield int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024
        return
    # macOS knows its total alone: take half of it.
    for name, share in (("SC_AVPHYS_PAGES", 1.0), ("SC_PHYS_PAGES", 0.5)):
        with suppress(OSError, ValueError):
            yield int(os.sysconf(name) * os.sysconf("SC_PAGE_SIZE") * share)
            return


# By file system: the files with a group's limits, the file with its use, and the line of memory.stat for the page cache in
# that use which the kernel gives back before it kills.
_CGROUP_FILES = {
    "cgroup2": (("memory.max", "memory.high"), "memory.current", "inactive_file"),
    "cgroup": (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
}


def _cgroups(root: Path) -> Iterator[int]:
    """What each group of this process leaves of its memory limit, from its own up to the one that is mounted."""
    try:
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
        mounts = [line.split() for line in (root / "proc/self/mountinfo").read_text().splitlines()]
    except OSError:
        return
    for fields in mounts:  # ID PARENT MAJOR:MINOR ROOT MOUNT OPTIONS [TAG...] - TYPE SOURCE OPTIONS
        kind, _, options = fields[fields.index("-") + 1 :][:3] if "-" in fields[:-3] else ("", "", "")
        if kind not in _CGROUP_FILES or (kind == "cgroup" and "memory" not in options.split(",")):
            continue
        controller = "" if kind == "cgroup2" else "memory"  # controllers, as /proc/self/cgroup lists them
        path = next((path for _, names, path in groups if controller in names.split(",")), None)
        if path is None:
            continue
        mounted = root / fields[4].lstrip("/")
        # A container sees its own group mounted as the root, and may be told the path from the machine's root.
        group = PurePosixPath(path)
        inner = group.relative_to(fields[3]) if group.is_relative_to(fields[3]) else PurePosixPath()
        for level in (inner, *inner.parents) if ".." not in inner.parts else (PurePosixPath(),):
            yield from _left(mounted / level, *_CGROUP_FILES[kind])


def _left(folder: Path, limits: tuple[str, ...], use: str, cache: str) -> Iterator[int]:
    for name in limits:
        with suppress(OSError, ValueError):  # "max", or a group without that controller
            limit, used = int((folder / name).read_text()), int((folder / use).read_text())
            with suppress(OSError, ValueError):
                statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                used -= int(statistics.get(cache, 0))
            yield limit - used


def peak(device: torch.device) -> int:
    """Return the bytes that this process has held at most: on a GPU its allocator's, else the whole process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def taken_by(device: torch.device, work: Callable[[], object]) -> int:
    """Return how much more memory `work` has at its peak than before it; 0 where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    status = Path("/proc/self/status")
    try:
        before = _kilobytes(status.read_text(), "VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again (man 5 proc)
    except OSError:
        return 0
    work()
    return (_kilobytes(status.read_text(), "VmHWM") - before) << 10


def _kilobytes(status: str, name: str) -> int:
    return int(re.search(rf"^{name}:\s*(\d+) kB", status, re.MULTILINE)[1])  # type: ignore[index]


def encoder_bytes(folder: Path, dtype: torch.dtype, quantize: str | None = None) -> int:
    """Return the bytes of a text encoder's weights once loaded, without its output head, from the headers of its files alone."""
    inner = folder / "text_encoder"
    total = 0.0
    for file in (inner if inner.is_dir() else folder).glob("*.safetensors"):
        for name, shape in _shapes(file):
            linear = len(shape) == 2 and "embed" not in name and "shared" not in name
            if not name.startswith(
                ("lm_head", "model.visual.", "mtp.")
            ):  # of Qwen3.5 the language model alone is loaded
                total += math.prod(shape) * (BITS[quantize] / 8 if quantize and linear else dtype.itemsize)
    return int(total)


def fitting(folder: Path, dtype: torch.dtype, device: torch.device) -> str | None:
    """Return what the text encoder in `folder` must be stored in to fit into the memory of `device`: None for `dtype` itself."""
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
    """Return the pixels of the longer side above which images of `size` are decoded in tiles, so that the decoder fits."""
    from commonart.core.model.autoencoder import TILE_ABOVE

    config = autoencoder.model.config
    channels = config.get("decoder_block_out_channels") or config.block_out_channels
    each = DECODER * max(channels[:2]) * autoencoder.dtype.itemsize  # bytes a pixel
    room = free(autoencoder.device) * SPARE
    side, area = TILE_ABOVE, size[0] * size[1]
    while side > SMALLEST_TILE and min(area, side * side) * each > room:
        side //= 2
    return side


def _shapes(file: Path) -> list[tuple[str, list[int]]]:
    """(name, shape) of every tensor of a safetensors file: 8 bytes of length, then JSON. [] of a damaged one."""
    with open(file, "rb") as opened, suppress(ValueError, struct.error, AttributeError, KeyError, TypeError):
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length)) if length < 100_000_000 else {}
        return [(name, value["shape"]) for name, value in header.items() if name != "__metadata__"]
    return []
