"""Does the model give away what it was trained on? Membership inference with controls, and replication.

    commonart mia runs/nano --data shards/ -o mia.json --figure mia.png

Members are the records of the split `train`, others those of `heldout`, which was fixed by a hash before training.
Every attack comes with bootstrap intervals and with a negative control: the same attack between two halves of the
held-out pictures, where nothing can be found. Replication: how near the pictures drawn from training captions come
to training pictures, beside how near training pictures are to each other anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from commonart.core.data.files import write_json
from commonart.core.data.images.decode import resize_crop
from commonart.core.data.record import split_of_record
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.generation.prompts import text_of
from commonart.core.log import progress, warn
from commonart.core.metrics import image_set, roc
from commonart.core.metrics.image_set import Item
from commonart.core.output import metadata

if TYPE_CHECKING:
    from PIL import Image

    from commonart.core.generation.pipeline import Pipeline
    from commonart.core.metrics.attacks import Denoiser

Floats = NDArray[np.float64]
SMALLEST = 4  # pictures in each group: the control halves them
FIGURE_ROWS = 3  # as the paper's figure 2


def mia(
    model: str,
    data: str = "shards/",
    *,
    n: int = 500,
    lang: str | None = None,
    attacks: Sequence[str] = ("loss", "secmi", "pia", "clid"),
    times: int = 10,
    draws: int = 1,
    replicate: int = 50,
    judge: str = "nano",
    steps: int = 20,
    guidance: float = 4.5,
    seed: int = 0,
    resamples: int = 1000,
    batch: int = 16,
    out: str | None = "mia.json",
    figure: str | None = None,
    overwrite: bool = False,
    device: str = "auto",
    precision: str = "auto",
    text_encoder: str | None = None,
    autoencoder: str | None = None,
    accept_terms: Sequence[str] = (),
    quiet: bool = False,
) -> dict[str, Any]:
    """Attack `model` with the pictures of `data`, write `out` and `figure`, and return what `out` holds.

    Args:
        model: anything that `sample` takes; what it was trained on must be the split `train` of `data`.
        data: shards or records with both splits.
        n: at most so many members and so many held-out pictures, drawn by `seed`.
        lang: whose captions condition the model; default: each record's first caption.
        attacks: names of `core.metrics.attacks.ATTACKS`.
        times, draws: timesteps, and noises at each, of `loss` and `clid`.
        replicate: pictures that are drawn from training captions; 0 leaves replication out.
        judge: the encoder whose features say how alike two pictures are.
        steps, guidance: of that drawing.
        resamples: of the bootstrap.
        batch: pictures that are attacked together.
        figure: a picture as the paper's figure 2: caption with training picture, drawn picture, nearest training
            picture.

    Raises:
        UsageError: an unknown attack, impossible numbers, or `out` exists.
        CommonArtError: too few members or held-out pictures, or models that cannot be had.
    """
    _check(attacks, n, times, draws, replicate, resamples, out, figure, overwrite)
    members, others, doubled = _groups(data, n, lang, seed)
    from commonart.core.generation.components import locate
    from commonart.core.generation.pipeline import Pipeline
    from commonart.core.generation.request import ModelSpec

    spec = ModelSpec(model, text_encoder, autoencoder, accept_terms, device=device, precision=precision)
    parts = locate(spec)
    engine = Pipeline.open(parts, spec)
    settings = {
        "data": data, "seed": seed, "lang": lang, "times": times, "draws": draws, "steps": steps, "guidance": guidance,
        "objective": parts.objective, "size": engine.size, "precision": str(engine.dtype).removeprefix("torch."),
    }  # fmt: skip
    found = _attack(engine, [*members, *others], attacks, lang, times, draws, seed, batch, quiet)
    rng = np.random.default_rng(seed)
    result: dict[str, Any] = {
        "schema": 1,
        "model": parts.name,
        "revision": parts.revision,
        "settings": settings,
        "members": len(members),
        "heldout": len(others),
        "heldout_dropped_as_members": doubled,
        "attacks": {},
    }
    shuffled = rng.permutation(len(others))
    for attack, values in found.items():
        inside, outside = values[: len(members)], values[len(members) :]
        halves = np.array_split(outside[shuffled], 2)
        attacked = roc.report(inside, outside, seed=seed, resamples=resamples)
        control = roc.report(halves[0], halves[1], seed=seed, resamples=resamples)
        result["attacks"][attack] = {**attacked, "control": control, "verdict": verdict(attacked, control)}
    if replicate:
        result["replication"] = _replication(
            engine, data, members[:replicate], lang, judge, steps, guidance, seed, batch, figure, overwrite, quiet
        )
    if out is not None:
        write_json(out, result)
    return result


def verdict(attacked: dict[str, Any], control: dict[str, Any]) -> str:
    """What an attack's interval means: "leaks" or "no leak found"; "control failed" where the control finds a leak."""
    if not control["auc"]["low"] <= 0.5 <= control["auc"]["high"]:
        return "control failed"
    return "leaks" if attacked["auc"]["low"] > 0.5 else "no leak found"


def table(result: dict[str, Any]) -> str:
    """What the command prints."""
    lines = [
        f"{result['members']:,} members, {result['heldout']:,} held out; intervals hold 95 %",
        f"{'attack':<8} {'AUC':<22} {'accuracy':<22} {'TPR at 1 % FPR':<22} {'control AUC':<22} verdict",
    ]
    for name, row in result["attacks"].items():
        cells = [_cell(row[key]) for key in ("auc", "accuracy", "tpr@1%fpr")] + [_cell(row["control"]["auc"])]
        lines.append(f"{name:<8} {' '.join(f'{cell:<22}' for cell in cells)} {row['verdict']}")
    copied = result.get("replication")
    if copied:
        lines.append(
            f"replication: top-1 similarity of {copied['drawn']:,} drawn pictures to training pictures "
            f"{copied['similarity']['mean']:.3f}, between training pictures {copied['background']['mean']:.3f}; "
            f"{100 * copied['above_background']['value']:.1f} % are nearer than 95 % of the training pictures are"
        )
    return "\n".join(lines)


def _cell(value: dict[str, float]) -> str:
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _check(
    attacks: Sequence[str], n: int, times: int, draws: int, replicate: int, resamples: int,
    out: str | None, figure: str | None, overwrite: bool,
) -> None:  # fmt: skip
    from commonart.core.metrics.attacks import ATTACKS

    for attack in attacks:
        if attack not in ATTACKS:
            raise UsageError(f"--attack {attack}: there is no such attack.", f"Choose among {', '.join(ATTACKS)}.")
    for flag, value, least in (
        ("-n", n, SMALLEST),
        ("--times", times, 1),
        ("--draws", draws, 1),
        ("--replicate", replicate, 0),
        ("--resamples", resamples, 10),
    ):
        if value < least:
            raise UsageError(f"{flag} {value} is not possible.", f"Give a whole number from {least} on.")
    if figure is not None:
        metadata.format_of(figure)
        if not replicate:
            raise UsageError("--figure shows what replication draws.", "Leave --replicate 0 out.")
    for flag, path in (("-o", out), ("--figure", figure)):
        if path is not None and Path(path).exists() and not overwrite:
            raise UsageError(f"{flag} {path}: this file is there already.", "Choose another name, or say --overwrite.")


def _groups(data: str, n: int, lang: str | None, seed: int) -> tuple[list[Item], list[Item], int]:
    """Members, held-out pictures without those that are members too, and how many of these were left out."""
    groups: dict[str, list[Item]] = {"train": [], "heldout": []}
    for item in image_set.collect(data, seed=seed):
        if split_of_record(item.record) in groups and text_of(item.record, lang):
            groups[split_of_record(item.record)].append(item)
    train = {mark for item in groups["train"] for mark in _marks(item)}
    others = [item for item in groups["heldout"] if not _marks(item) & train]
    for name, items in (("train", groups["train"]), ("heldout", others)):
        if len(items) < SMALLEST:
            captions = f" with a caption in '{lang}'" if lang else " with captions"
            raise CommonArtError(
                f"{data} holds {len(items)} pictures of the split {name}{captions}; {SMALLEST} are needed.",
                "Name the shards that the model was trained on: about one in twenty is held out, so that 100 or more are needed.",
            )
    if min(len(groups["train"]), len(others)) < 70:
        warn(f"{len(groups['train'])} members and {len(others)} held-out pictures are few: the intervals will be wide.")
    return groups["train"][:n], others[:n], len(groups["heldout"]) - len(others)


def _marks(item: Item) -> set[str]:
    return {f"{name}:{item.record[name]}" for name in ("sha256", "phash") if item.record.get(name)}


def _attack(
    engine: Pipeline,
    items: Sequence[Item],
    attacks: Sequence[str],
    lang: str | None,
    times: int,
    draws: int,
    seed: int,
    batch: int,
    quiet: bool,
) -> dict[str, Floats]:
    """The scores of all items by each attack. Members and others go through the same batches, in one shuffled order."""
    import torch

    from commonart.core.metrics import attacks as membership
    from commonart.core.model.autoencoder import to_pixels

    order = np.random.default_rng(seed + 1).permutation(len(items))
    texts = engine.encode([text_of(item.record, lang) for item in items])
    found = {attack: np.zeros(len(items)) for attack in attacks}
    grid = membership.even_times(times)
    with progress("mia", total=len(items), unit=" images", quiet=quiet) as tick:
        for start in range(0, len(items), batch):
            rows = order[start : start + batch]
            pictures = [_picture(items[row], engine.size) for row in rows]
            latents = engine.autoencoder().encode(to_pixels(pictures))[0].to(engine.device, torch.float32)
            own = _denoiser(engine, [texts[text_of(items[row].record, lang)] for row in rows])
            null = _denoiser(engine, [texts[""]] * len(rows))
            for attack in attacks:
                found[attack][rows] = membership.scores(attack, own, null, latents, times=grid, draws=draws, seed=seed)
            tick(len(rows))
    return found


def _picture(item: Item, size: int) -> Image.Image:
    image = image_set.open_image(item.pointer)
    return image if image.size == (size, size) else resize_crop(image, size)


def _denoiser(engine: Pipeline, texts: Sequence[Any]) -> Denoiser:
    import torch

    from commonart.core.metrics.attacks import Denoiser
    from commonart.core.model.transformer import stack_text

    model = engine.transformer()
    text_BLT, mask_BL = stack_text([states.to(engine.device, engine.dtype) for states in texts])

    def predict(x: torch.Tensor, t: int) -> torch.Tensor:
        timestep_B = torch.full((len(x),), float(t), device=x.device)
        return model(x.to(engine.dtype), timestep_B, text_BLT, mask_BL)[:, : x.shape[1]].float()

    return Denoiser(predict, engine.components.objective)


def _replication(
    engine: Pipeline,
    data: str,
    members: Sequence[Item],
    lang: str | None,
    judge: str,
    steps: int,
    guidance: float,
    seed: int,
    batch: int,
    figure: str | None,
    overwrite: bool,
    quiet: bool,
) -> dict[str, Any]:
    """Draw the captions of `members`, compare with all training pictures, and show the likest in `figure`."""
    from commonart.core.generation.request import GenerationConfig, ImageRequest
    from commonart.core.metrics import replication
    from commonart.core.metrics.clip_score import DualEncoder

    jobs = [ImageRequest(text_of(item.record, lang), image_set.seed_for(seed, item.name)) for item in members]
    with progress("draw", total=len(jobs), unit=" images", quiet=quiet) as tick:
        config = GenerationConfig(steps=steps, guidance=guidance)
        drawn = list(engine.generate(jobs, config, batch=batch, on_batch=tick))
    train = [item for item in image_set.collect(data, seed=seed) if split_of_record(item.record) == "train"]
    encoder = DualEncoder.load(judge, device=str(engine.device))
    known = encoder.images(_picture(item, engine.size) for item in train)
    place = {item.name: row for row, item in enumerate(train)}
    found = replication.compare(encoder.images(drawn), known, [place[item.name] for item in members])
    if figure is not None:
        rows = []
        for i in np.argsort(-found.own)[:FIGURE_ROWS]:
            own, nearest = _picture(members[i], engine.size), _picture(train[found.nearest[i]], engine.size)
            rows.append((jobs[i].prompt, own, drawn[i], float(found.own[i]), nearest, float(found.similarity[i])))
        replication.write_figure(figure, rows, overwrite=overwrite)
    return {
        "judge": encoder.name,
        "judge_revision": encoder.revision,
        **found.report(seed),
        "steps": steps,
        "guidance": guidance,
        "seed": seed,
    }
