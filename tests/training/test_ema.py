"""core.training.ema: the average, its files and the swap."""

import pytest
import torch
from torch import nn

from commonart.core.errors import CommonArtError
from commonart.core.training.ema import Ema


def model(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(dtype)


def test_average_follows_the_formula():
    net = model()
    ema = Ema(net, decay=0.9)
    expected = [parameter.detach().double() for parameter in net.parameters()]
    for step in range(5):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.1 * (step + 1))
        ema.update()
        expected = [0.9 * e + 0.1 * p.detach().double() for e, p in zip(expected, net.parameters(), strict=True)]
    for mine, right in zip(ema.state_dict().values(), expected, strict=True):
        torch.testing.assert_close(mine.double(), right, atol=1e-6, rtol=0)


def test_bfloat16_weights_have_a_float32_average():
    net = model(dtype=torch.bfloat16)
    ema = Ema(net, decay=0.999)
    before = ema.state_dict()["0.weight"].clone()
    with torch.no_grad():
        net[0].weight.add_(0.5)
    ema.update()
    moved = ema.state_dict()["0.weight"] - before
    assert moved.dtype == torch.float32
    assert moved.min() > 0.0004  # bfloat16 would have rounded the step away


def test_swap_gives_the_average_and_then_the_same_weights():
    net = model()
    ema = Ema(net, decay=0.5)
    trained = [parameter.detach().clone().add_(1) for parameter in net.parameters()]
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), trained, strict=True):
            parameter.copy_(value)
    identity = [id(parameter) for parameter in net.parameters()]
    with pytest.raises(ZeroDivisionError), ema.swap() as averaged:
        assert averaged is net
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), ema.average, strict=True))
        raise ZeroDivisionError
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), trained, strict=True))
    assert identity == [id(parameter) for parameter in net.parameters()]


def test_state_is_restored_and_independent_of_the_weights():
    ema = Ema(model(0), decay=0.9)
    state = {name: tensor.clone() for name, tensor in ema.state_dict().items()}
    other = Ema(model(1), decay=0.9)
    other.load_state_dict(state)
    assert all(torch.equal(other.state_dict()[name], state[name]) for name in state)
    fresh = model(2)
    fresh.load_state_dict(ema.state_dict())  # the names are the model's own
    assert torch.equal(fresh[0].weight, state["0.weight"])
    with torch.no_grad():
        ema.model[0].weight.zero_()
    assert torch.equal(ema.state_dict()["0.weight"], state["0.weight"])


def test_states_that_do_not_fit_are_named():
    ema = Ema(model())
    state = ema.state_dict()
    with pytest.raises(CommonArtError, match=r"lacks 0.weight"):
        ema.load_state_dict({name: value for name, value in state.items() if name != "0.weight"})
    with pytest.raises(CommonArtError, match=r"another shape for 1.bias"):
        ema.load_state_dict({**state, "1.bias": torch.zeros(3)})
    with pytest.raises(CommonArtError, match=r"holds 2.bias"):
        ema.load_state_dict({**state, "2.bias": torch.zeros(3)})
    with pytest.raises(CommonArtError, match=r"1\.5"):
        Ema(model(), decay=1.5)
