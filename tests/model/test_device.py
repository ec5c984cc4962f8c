"""Which precision `auto` is."""

import pytest
import torch

from commonart.core.model import device

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("has_bf16", "faster", "weights", "matrices"),
    [
        (False, True, torch.float32, torch.float32),
        (True, False, torch.bfloat16, torch.float32),  # AVX-512 BF16 on some CPUs: half the memory, half the speed
        (True, True, torch.bfloat16, torch.bfloat16),
    ],
)
def test_auto_is_bf16_on_a_cpu_only_where_its_products_are_faster(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool, faster: bool, weights: torch.dtype, matrices: torch.dtype
) -> None:
    monkeypatch.setattr(device, "has_bf16", lambda _: has_bf16)
    monkeypatch.setattr(device, "_bf16_is_faster", lambda: faster)
    assert device.pick_dtype("auto", CPU) == weights
    assert device.pick_matmul_dtype("auto", CPU) == matrices
    assert device.pick_matmul_dtype("bf16", CPU) == torch.bfloat16


def test_the_measured_answer_is_that_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, slow = [0.0], {torch.float32: 2.0, torch.bfloat16: 1.0}

    def mm(rows: torch.Tensor, weights: torch.Tensor) -> None:
        clock[0] += slow[rows.dtype]

    monkeypatch.setattr(device.torch, "mm", mm)
    monkeypatch.setattr(device.time, "perf_counter", lambda: clock[0])
    assert device._bf16_is_faster.__wrapped__()
    slow[torch.bfloat16] = 3.0
    assert not device._bf16_is_faster.__wrapped__()
