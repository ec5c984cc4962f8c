"""Exponential moving average of a model's weights: what `commonart train` samples from and exports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from commonart.core.errors import CommonArtError
from commonart.core.model.alignment import PREFIX
from commonart.core.training import fsdp


class Ema:
    """A float32 average of the parameters of `model`, with constant `decay` and no warm-up.

    The average starts at the weights as they are now; after k updates these count decay**k. Memory: 4 bytes a
    parameter, on the parameters' device.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            what = f"The decay of the average is {decay}; it must be at least 0 and below 1."
            raise CommonArtError(what, "Change ema.")
        self.model, self.decay = model, decay
        # A head that is dropped after training needs no average.
        named = [
            (name, param)
            for name, param in model.named_parameters()
            if param.requires_grad and not name.startswith(PREFIX)
        ]
        self.names = [name for name, _ in named]
        self.weights = [param for _, param in named]
        self.average = [param.detach().float().clone() for param in self.weights]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights: once after every optimizer step."""
        weights = [param.detach().float() for param in self.weights]
        torch._foreach_lerp_(self.average, weights, 1 - self.decay)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the average by parameter name: a state dict of the model (which has no persistent buffers)."""
        return dict(zip(self.names, self.average, strict=True))

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the average in place. Raises CommonArtError naming a missing, unknown or misshapen key."""
        for name, average in zip(self.names, self.average, strict=True):
            if name not in state or state[name].shape != average.shape:
                what = "lacks" if name not in state else "has another shape for"
                raise CommonArtError(f"The saved average {what} {name}.", "Resume with the transformer of the run.")
            average.copy_(fsdp.shard_like(state[name], average))
        if unknown := sorted(set(state) - set(self.names)):
            what = f"The saved average holds {unknown[0]}, which the model lacks."
            raise CommonArtError(what, "Resume with the run's transformer.")

    @contextmanager
    def swap(self) -> Iterator[nn.Module]:
        """Lend the model with the average as its weights; the trained weights are back afterwards, bit for bit.

        Enter it outside `torch.autocast`, which may hold on to casts of the trained weights.
        """
        weights = [parameter.detach() for parameter in self.weights]
        backup = [weight.clone() for weight in weights]
        try:
            torch._foreach_copy_(weights, self.average)
            yield self.model
        finally:
            torch._foreach_copy_(weights, backup)
