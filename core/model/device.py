"""Devices and number formats are chosen here alone, so that every stage decides alike: `--device` and `--precision`."""

from __future__ import annotations

import math
import os
import time
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

from commonart.core.data.threads import cpu_count
from commonart.core.errors import UsageError

DTYPES = {
    "fp32": torch.float32, "float32": torch.float32,
    "bf16": torch.bfloat16, "bfloat16": torch.bfloat16,
    "fp16": torch.float16, "float16": torch.float16,
}  # fmt: skip


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called `name`: auto, cpu, mps, cuda or cuda:N.

    auto is this process's GPU (LOCAL_RANK or SLURM_LOCALID, where several were started), else Apple's, else the CPU. Raises
    UsageError for an unknown name, or a device that this machine does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name} is not a device.", "Use auto, cpu, cuda, cuda:N or mps.") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        rank = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))) % max(count, 1)
        index = rank if device.index is None else device.index
        if index >= count:
            raise UsageError(
                f"--device {name} is not available: PyTorch sees {count} CUDA devices here.",
                "Use --device cpu, or ask the scheduler for a GPU.",
            )
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps is not available on this machine.", "Use --device cpu.")
    return device


def check_count(count: int, name: str = "auto") -> None:
    """Raise UsageError unless this machine has `count` devices called `name`, one for each process: on CPU, a core."""
    kind = pick_device(name).type
    named = kind != "cpu" and ":" in name  # one device, by its number
    have = 1 if named or kind == "mps" else torch.cuda.device_count() if kind == "cuda" else cpu_count()
    if count > have:
        what = f"{name} is one device" if named else f"this machine has {have} {'core' if kind == 'cpu' else 'GPU'}s"
        raise UsageError(
            f"--gpus {count}, but {what if have > 1 or named else what[:-1]}.",
            f"Use --gpus {have}, or start the processes on several machines: srun --ntasks {count} commonart ..., or "
            "torchrun --nnodes ... -m commonart.cli.main ...",
        )


def has_bf16(device: torch.device) -> bool:
    """Return whether bfloat16 matrix products run in hardware (Ampere GPUs and later; AMX or AVX-512 BF16 CPUs)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported") if device.type == "cpu" else ()
    return any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes)


def pick_dtype(name: str = "auto", device: torch.device | None = None) -> torch.dtype:
    """Return the dtype called `name`: auto, fp32, bf16 or fp16 (PyTorch's long names too).

    auto is bf16 where the device multiplies it in hardware, fp16 on older GPUs, else fp32. Raises UsageError for other names.
    """
    if name == "auto":
        device = device or pick_device()
        if has_bf16(device):
            return torch.bfloat16
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise UsageError(f"--precision {name} is not a precision.", "Use auto, fp32, bf16 or fp16.")
    return DTYPES[name]


def pick_matmul_dtype(name: str = "auto", device: torch.device | None = None) -> torch.dtype:
    """Return the dtype as `pick_dtype` does, for a model that multiplies large matrices rather than reads large weights.

    auto is bf16 on a CPU only where products are faster in it, as measured once: with AMX eight times, with AVX-512 BF16 alone on
    some CPUs slower than float32.
    """
    device = device or pick_device()
    if name == "auto" and device.type == "cpu" and not (has_bf16(device) and _bf16_is_faster()):
        return torch.float32
    return pick_dtype(name, device)


@cache
def _bf16_is_faster() -> bool:
    fastest = {torch.float32: math.inf, torch.bfloat16: math.inf}
    for _ in range(3):  # in turns, so that what else the machine does hits both
        for dtype in fastest:
            rows, weights = torch.ones(256, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
            started = time.perf_counter()
            torch.mm(rows, weights)
            fastest[dtype] = min(fastest[dtype], time.perf_counter() - started)
    return fastest[torch.bfloat16] < fastest[torch.float32]


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name that runs and feature caches record: "float32", "bfloat16" or "float16"."""
    return str(dtype).removeprefix("torch.")


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Return mixed precision in `dtype` on `device`; no context at all for float32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)
