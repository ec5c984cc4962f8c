import dataclasses

import pytest
import torch
from torch import nn

from commonart.core import recipes
from commonart.core.errors import CommonArtError
from commonart.core.training import optimizers


def _model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(4, 64, 2, 2), nn.Flatten(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))


def _steps(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> list[float]:
    losses = []
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 4, 2, 2, generator=generator)
        loss = (model(x)[:, 0] - x.sum(dim=(1, 2, 3))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _make(model: nn.Module, name: str) -> torch.optim.Optimizer:
    recipe = dataclasses.replace(recipes.resolve("nano"), optimizer=name, lr=1e-3)
    return optimizers.make(model.named_parameters(), recipe)


@pytest.mark.parametrize("name", recipes.OPTIMIZERS)
def test_every_optimizer_learns(name):
    model = _model()
    losses = _steps(model, _make(model, name), 0, 150)
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])


@pytest.mark.parametrize("name", recipes.OPTIMIZERS)
def test_state_round_trips_exactly(name, tmp_path):
    from safetensors.torch import load_file, save_file

    straight = _model()
    expected = _steps(straight, (optimizer := _make(straight, name)), 0, 5)
    tensors, values = optimizers.state_of(optimizer, straight.named_parameters())
    save_file(tensors, tmp_path / "optimizer.safetensors")
    weights = {key: value.clone() for key, value in straight.state_dict().items()}
    expected = _steps(straight, optimizer, 5, 12)

    resumed = _model(seed=9)
    resumed.load_state_dict(weights)
    optimizer = _make(resumed, name)
    optimizers.load_state(optimizer, resumed.named_parameters(), load_file(tmp_path / "optimizer.safetensors"), values)
    assert _steps(resumed, optimizer, 5, 12) == expected
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_adamw8bit_really_keeps_eight_bits_and_its_shared_map_once():
    model = nn.Linear(128, 128)
    optimizer = _make(model, "AdamW8bit")
    model(torch.randn(4, 128)).square().mean().backward()
    optimizer.step()
    tensors, values = optimizers.state_of(optimizer, model.named_parameters())
    assert tensors["weight/state1"].dtype == torch.uint8
    assert values["weight/step"] == 1


def test_came_first_step_is_the_papers():
    """Algorithm 2 of arXiv 2307.02047 written out for one step on one matrix, without the rank-1 shortcuts."""
    weight = nn.Parameter(torch.randn(3, 5, dtype=torch.float32))
    before, grad = weight.detach().double().clone(), torch.randn(3, 5)
    weight.grad = grad.clone()
    optimizers.CAME([weight], lr=0.1).step()
    g = grad.double()
    square = g * g + 1e-30
    row, column = 0.001 * square.mean(1), 0.001 * square.mean(0)
    u = g / (torch.outer(row, column) / row.mean()).sqrt()
    u = u / max(1.0, u.square().mean().sqrt().item())
    m = 0.1 * u
    instability = (u - m) ** 2 + 1e-16
    row, column = 0.0001 * instability.mean(1), 0.0001 * instability.mean(0)
    expected = before - 0.1 * m / (torch.outer(row, column) / row.mean()).sqrt()
    assert torch.allclose(weight.detach().double(), expected, atol=1e-4, rtol=1e-4)


def test_came_survives_zero_gradients():
    """Zero-initialised output layers give whole matrices a gradient of exactly zero at first."""
    weight = nn.Parameter(torch.randn(8, 8))
    optimizer = optimizers.CAME([weight], lr=1e-3)
    for scale in (0.0, 0.0, 1e-12, 1.0):
        weight.grad = torch.randn(8, 8) * scale
        optimizer.step()
    assert weight.isfinite().all()


def test_weight_decay_reaches_matrices_only():
    optimizer = _make(_model(), "AdamW")
    decays = {param.dim(): group["weight_decay"] for group in optimizer.param_groups for param in group["params"]}
    assert decays == {4: 0.1, 2: 0.1, 1: 0.0}  # the recipe's


def test_state_of_another_model_is_refused():
    model = _model()
    optimizer = _make(model, "AdamW")
    with pytest.raises(CommonArtError, match=r"parameter 7\.weight"):
        optimizers.load_state(optimizer, model.named_parameters(), {"7.weight/exp_avg": torch.zeros(2)}, {})
