"""Prompts that a model has memorised, told by its first step alone, before an image is made of them.

After "Detecting, Explaining, and Mitigating Memorization in Diffusion Models" (Wen et al., ICLR 2024, arXiv 2407.21720):

    d(p) = || eps(x_T, T, p) - eps(x_T, T, "") ||_2

is large where the prompt alone decides the image, whatever the noise x_T. Here it is divided by the root of the number of
elements, and averaged over four noises that are the same for every prompt. Of a flow model, the velocity takes the place
of the noise: at its first step the two differ by what is expected of the data alone, so the measure is the same.

The threshold comes from captions of held-out images, which the model never saw. A caption that says much is far from the
empty one as well, so a flag is a reason to look, and no proof.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from commonart.core.audit.scoring import denoiser
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.generation.pipeline import Pipeline
from commonart.core.log import progress
from commonart.core.metrics import roc
from commonart.core.model.diffusion import STEPS
from commonart.core.model.sampler import noise_for

Floats = NDArray[np.float64]
NOISES = 4  # the paper's best choice for one step
FALSE_ALARMS = 0.01  # of held-out prompts, where there are enough of them
SHOWN = 20  # flagged prompts that are named


@torch.inference_mode()
def magnitudes(engine: Pipeline, prompts: Sequence[str], *, batch: int = 16, quiet: bool = True) -> Floats:
    """Return d(p), [N], of each prompt at the model's own size."""
    side = engine.config.sample_size
    noises = noise_for(range(NOISES), (engine.config.in_channels, side, side), engine.device)
    unique = list(dict.fromkeys(prompts))
    texts = engine.encode(["", *unique])
    engine.release("text_encoder")
    null = _first_step(engine, [texts[""]] * NOISES, noises)
    found: dict[str, float] = {}
    some = max(1, batch // NOISES)
    with progress("memorised prompts", total=len(unique), unit=" prompts", quiet=quiet) as tick:
        for start in range(0, len(unique), some):
            part = unique[start : start + some]
            made = _first_step(
                engine, [texts[p] for p in part for _ in range(NOISES)], noises.repeat(len(part), 1, 1, 1)
            )
            apart = (made - null.repeat(len(part), 1, 1, 1)).square().flatten(1).mean(1).sqrt()
            found |= dict(zip(part, apart.view(len(part), NOISES).mean(1).tolist(), strict=True))
            tick(len(part))
    engine.release("transformer")  # what comes next begins with the text encoder
    return np.array([found[prompt] for prompt in prompts])


def _first_step(engine: Pipeline, texts: Sequence[Tensor], noises: Tensor) -> Tensor:
    return denoiser(engine, texts).predict(noises, STEPS - 1)


def audit(
    engine: Pipeline,
    members: Mapping[str, str],
    heldout: Mapping[str, str],
    *,
    batch: int = 16,
    quiet: bool = False,
) -> dict[str, Any] | None:
    """Set the threshold by held-out captions and count the training captions above it: `memorised_prompts` of mia.json.

    Args:
        members: key -> caption that the model was trained on.
        heldout: key -> caption of images that it never saw; those that are a member's caption too do not count.

    Returns:
        None where no held-out caption is left.
    """
    seen = set(members.values())
    others = [caption for caption in heldout.values() if caption not in seen]
    if not others:
        return None
    values = magnitudes(engine, [*members.values(), *others], batch=batch, quiet=quiet)
    inside, outside = values[: len(members)], values[len(members) :]
    threshold, rate = threshold_of(outside)
    flagged = [(value, key) for value, key in zip(inside.tolist(), members, strict=True) if value > threshold]
    low, high = roc.auc_interval(inside, outside)
    return {
        "fingerprint": engine.components.fingerprint,
        "size": engine.size,
        "prompts": len(inside),
        "heldout_prompts": len(outside),
        "threshold": threshold,
        "false_alarm_rate": rate,
        "flagged": roc.proportion(len(flagged), len(inside)),
        "auc": {"value": roc.auc(roc.curve(inside, outside)), "low": low, "high": high},
        "flagged_prompts": [
            {"key": key, "prompt": members[key], "magnitude": value}
            for value, key in sorted(flagged, reverse=True)[:SHOWN]
        ],
    }


def threshold_of(heldout: Floats) -> tuple[float, float]:
    """Return the threshold, and the probability of at most which a new held-out prompt is above it.

    The rate is 1 %, or the smallest that N held-out prompts carry, 1 / (N + 1): the threshold is then their largest.
    """
    rate = max(FALSE_ALARMS, roc.smallest_fpr(len(heldout)))
    threshold = roc.carried_threshold(heldout, rate)
    assert threshold is not None
    return threshold, int(rate * (len(heldout) + 1) + 1e-9) / (len(heldout) + 1)


@dataclass(frozen=True, slots=True)
class PromptFilter:
    """What `sample --refuse-memorised` refuses. Make one with `PromptFilter.read`."""

    path: str
    threshold: float
    fingerprint: str

    @classmethod
    def read(cls, path: str, flag: str = "--refuse-memorised") -> PromptFilter:
        """Read the threshold from a file that `mia` wrote. Raises UsageError where it holds none."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))["memorised_prompts"]
            return cls(path, float(found["threshold"]), str(found["fingerprint"]))
        except OSError as error:
            raise UsageError(f"{flag} {path} cannot be read: {error.strerror}.", "Name a mia.json.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{flag} {path} holds no threshold for memorised prompts.",
                "Name a file that `commonart mia MODEL --data SHARDS -o mia.json` wrote for this model.",
            ) from error

    def refused(self, engine: Any, prompts: Sequence[str], *, batch: int = 16) -> dict[str, float]:
        """Return the prompts above the threshold and their magnitudes.

        Raises:
            UsageError: the threshold is another model's.
            CommonArtError: the model gives numbers that are not finite.
        """
        if not isinstance(engine, Pipeline) or engine.components.fingerprint != self.fingerprint:
            raise UsageError(
                f"--refuse-memorised {self.path} was measured on another model than {engine.components.name}.",
                "Name the mia.json of this very model: each has a threshold of its own.",
            )
        unique = list(dict.fromkeys(prompts))
        values = magnitudes(engine, unique, batch=batch)
        if not np.isfinite(values).all():
            raise CommonArtError(
                f"{engine.components.name} computes numbers that are not finite in {engine.dtype}.",
                "Its weights are damaged, or too large for this precision: add --precision fp32.",
            )
        return {prompt: float(value) for prompt, value in zip(unique, values, strict=True) if value > self.threshold}
