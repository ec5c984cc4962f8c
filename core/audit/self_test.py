"""Does the instrument work? Three controls with known answers, on generated scenes and the embedded models.

    commonart mia --self-test

overfitted   a small transformer that was trained on 32 scenes until it knew them: has to be caught, with a TPR of 0.95 or
             more at an FPR of 1 %
unseen       the embedded model, which saw none of the scenes, 20 times with the groups dealt anew: has to be let go
planted      the embedded model again; the members show one thing, the others two: has to be called a difference of the groups
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import stats

from commonart.core.audit import ATTACKS, blind, verdict
from commonart.core.audit.attacks import Measures
from commonart.core.audit.permutation import deal
from commonart.core.audit.scoring import Scoring, score
from commonart.core.generation.components import locate
from commonart.core.generation.pipeline import Pipeline
from commonart.core.generation.request import ModelSpec
from commonart.core.log import progress
from commonart.core.metrics.clip_score import DualEncoder
from commonart.core.metrics.image_set import ImageRef
from commonart.core.model import diffusion
from commonart.core.model.autoencoder import to_pixels
from commonart.core.model.config import PixArtConfig
from commonart.core.model.transformer import PixArt, stack_text
from commonart.core.nano import grammar, scenes

MEMBERS, OTHERS, SEEDS = 32, 104, 20  # 99 others carry an FPR of 1 %
STEPS, RATE = 400, 2e-3  # of the overfitted model
CAUGHT = 0.95  # TPR at an FPR of 1 %


def run(*, members: int = MEMBERS, others: int = OTHERS, seeds: int = SEEDS, steps: int = STEPS, seed: int = 0,
        permutations: int = 399, quiet: bool = False) -> dict[str, Any]:  # fmt: skip
    """Run the controls: {"overfitted", "unseen", "planted"}, each with "passed" and what it found."""
    spec = ModelSpec("nano", device="cpu", precision="fp32")
    nano = Pipeline.open(locate(spec), spec)
    encoder = DualEncoder.load("nano", device="cpu")
    scoring = Scoring(ATTACKS, 4, 1, None, seed)
    # A signal may come while the folder is being removed: what is left of it is the system's to remove.
    with tempfile.TemporaryDirectory(prefix="commonart-", ignore_cleanup_errors=True) as folder:
        items = _scenes(Path(folder), members + others, seed)
        weights = Path(folder) / "transformer"
        _overfit(nano, items[:members], steps, seed, quiet).save(weights)
        components = replace(nano.components, name="overfitted", transformer=weights, contents=("overfitted",))
        single, features = blind.look(items, encoder, None, nano.size)
        guilty, _ = score(Pipeline.open(components, spec), items, scoring, batch=64, label="overfitted", quiet=quiet)
        unseen, _ = score(nano, items, scoring, batch=64, label="a model that never saw the images", quiet=quiet)

    def audit(
        order: Sequence[int], count: int, target: Measures, reference: Measures | None, number: int
    ) -> dict[str, Any]:
        """Audit the items of `order`, of which the first `count` are called members."""
        rows, labels = np.array(order), deal(count, len(order) - count, permutations, number)

        def scores(measures: Measures) -> dict[str, verdict.Floats]:
            return verdict.scores_of(
                ATTACKS, {k: v[rows] for k, v in measures.items()}, single[blind.COMPLEXITY][rows], flow=True
            )

        judged = blind.report({k: v[rows] for k, v in single.items()}, features[rows], labels, seed=number)
        known = None if reference is None else scores(reference)
        return verdict.judge(scores(target), known, judged, labels, seed=number)

    everything = list(range(len(items)))
    caught = audit(everything, members, guilty, unseen, seed)
    rates = {name: row["tpr@1%fpr"] for name, row in {**caught["attacks"], "combined": caught["combined"]}.items()}
    best = max(rates, key=lambda name: rates[name]["value"] if rates[name] else 0.0)
    dealt = [
        audit(np.random.default_rng(number).permutation(len(items)).tolist(), members, unseen, None, number)
        for number in range(seed, seed + seeds)
    ]
    let_go = sum(row["verdict"] == verdict.NOTHING for row in dealt)
    # The attacks and the blind judge each err at the level; more errors than come by chance in one of a hundred trials fail.
    allowed = int(stats.binom.ppf(0.99, seeds, 2 * verdict.LEVEL))
    ones = [row for row, item in enumerate(items) if len(item.record["scene"]["things"]) == 1]
    planted = audit([*ones, *(row for row in everything if row not in ones)], len(ones), unseen, None, seed)
    return {
        "overfitted": {
            "passed": caught["verdict"] == verdict.LEAKS and bool(rates[best]) and rates[best]["value"] >= CAUGHT,
            "verdict": caught["verdict"], "attack": best, "tpr@1%fpr": rates[best],
        },
        "unseen": {
            "passed": seeds - let_go <= allowed,
            "let_go": let_go, "seeds": seeds, "expected": seeds - allowed, "level": verdict.LEVEL,
            "intervals_with_chance": float(np.mean(
                [r["auc"]["low"] <= 0.5 <= r["auc"]["high"] for row in dealt for r in row["attacks"].values()]
            )),
        },
        "planted": {"passed": planted["verdict"] == verdict.DIFFER, "verdict": planted["verdict"], "reason": planted["reason"]},
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Return what the command prints of the controls."""
    told = {
        "overfitted": "{verdict}; TPR at 1 % FPR {tpr@1%fpr[value]:.3f} by {attack}",
        "unseen": "a model that never saw the images: no leak found in {let_go} of {seeds}, at least {expected} expected; "
        "{intervals_with_chance:.0%} of the 95 % intervals hold 0.5",
        "planted": "{verdict}: {reason}",
    }
    lines = []
    for name, text in told.items():
        control = result[name]
        lines.append(f"{'passed' if control['passed'] else 'FAILED'}  {name:<11} {text.format(**control)}")
    return "\n".join(lines)


def _scenes(folder: Path, count: int, seed: int) -> list[ImageRef]:
    items = []
    for number in range(count):
        rng = np.random.default_rng([seed, 77, number])
        scene = scenes.random_scene(rng)
        path = folder / f"{number:04d}.png"
        Image.fromarray(scenes.render(scene, 64)).save(path)
        caption = {"text": grammar.caption(scene, "en", rng), "lang": "en"}
        record = {"key": f"s{number:04d}", "scene": scenes.scene_to_json(scene), "captions": [caption]}
        items.append(ImageRef(str(path), record))
    return items


def _overfit(nano: Pipeline, items: Sequence[ImageRef], steps: int, seed: int, quiet: bool) -> PixArt:
    """Train a small transformer on a few scenes until it knows them."""
    prompts = [item.record["captions"][0]["text"] for item in items]
    texts = nano.encode(prompts)
    text, mask = stack_text([texts[prompt] for prompt in prompts])
    latents = nano.autoencoder().encode(to_pixels([Image.open(item.pointer) for item in items]))[0].float()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = PixArt(PixArtConfig(
            num_layers=3, num_attention_heads=4, attention_head_dim=48, patch_size=4,
            in_channels=latents.shape[1], out_channels=latents.shape[1], sample_size=latents.shape[2],
            caption_channels=text.shape[2], interpolation_scale=1.0,
        ))  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    with progress("overfit", total=steps, unit=" steps", quiet=quiet) as tick:
        for _ in range(steps):
            loss, _ = diffusion.loss(model, latents, text, mask, "flow", generator)
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
            schedule.step()
            tick()
    return model.eval()
