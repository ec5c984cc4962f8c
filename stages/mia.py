"""Does the model give away its training images? Membership inference with controls, and replication.

Members are the records of the split `train`, non-members those of `heldout`, which a hash fixed before training. Every
attack comes with a negative control: the same attack between two halves of the held-out images, where nothing can be found.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from commonart.core.data.files import write_json
from commonart.core.data.images.decode import resize_crop
from commonart.core.data.record import split_of_record
from commonart.core.data.training_index import default_note
from commonart.core.errors import CommonArtError, UsageError, check_at_least
from commonart.core.generation.prompts import text_of
from commonart.core.log import progress, warn
from commonart.core.metrics import image_set, roc
from commonart.core.metrics.image_set import ImageRef
from commonart.core.output import metadata

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from commonart.core.audit.attacks import Denoiser
    from commonart.core.generation.pipeline import Pipeline

Floats = NDArray[np.float64]
MIN_IMAGES = 4  # of each group: the control splits one in halves
FEW_IMAGES = 70  # below this, intervals are too wide for most conclusions
FIGURE_ROWS, HEADS = 3, ("training image", "generated", "nearest training image")  # as the paper's figure 2


def run(
    model: str,
    data: str = "shards/",
    out: str | None = "mia.json",
    *,
    figure: str | None = None,
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
    overwrite: bool = False,
    device: str = "auto",
    precision: str = "auto",
    text_encoder: str | None = None,
    autoencoder: str | None = None,
    accept_terms: Sequence[str] = (),
    quiet: bool = False,
) -> dict[str, Any]:
    """Attack `model` with the images of `data`, write `out` and `figure`, and return the content of `out`.

    Args:
        model: as `sample` takes it; it must have been trained on the split `train` of `data`.
        data: shards or records with both splits.
        out, figure: files of the result and of an image like the paper's figure 2; None writes none.
        n: the most members, and the most held-out images, chosen by `seed`.
        lang: language of the captions that condition the model; default: each record's first caption.
        times, draws: timesteps, and noise samples at each, of `loss` and `clid`.
        replicate: images to generate from training captions; 0 skips replication.
        judge: the dual encoder that measures the similarity of two images.
        steps, guidance: of the generated images.
        resamples: of the bootstrap.

    Raises:
        UsageError: an unknown attack, a number out of range, or `out` exists.
        CommonArtError: too few members or held-out images, or models that cannot be found or loaded.
    """
    _check(attacks, n, times, draws, replicate, resamples, batch, seed, out, figure, overwrite)
    from commonart.core.audit import replication
    from commonart.core.generation.components import locate
    from commonart.core.generation.outputs import PlannedImage
    from commonart.core.generation.pipeline import Pipeline
    from commonart.core.generation.request import GenerationConfig, ModelSpec
    from commonart.core.generation.session import Session
    from commonart.core.metrics.clip_score import DualEncoder
    from commonart.core.output.contact_sheet import write_sheet

    spec = ModelSpec(model, text_encoder, autoencoder, accept_terms, device=device, precision=precision, flag="MODEL")
    components = locate(spec)
    if not os.path.exists(data):
        raise CommonArtError(
            f"--data {data}{default_note(data)} does not exist.", "Name the shards that the model was trained on."
        )
    members, heldout, duplicates = _split(data, n, lang, seed)
    engine = Pipeline.open(components, spec)
    settings = {
        "data": data, "seed": seed, "lang": lang, "times": times, "draws": draws, "steps": steps, "guidance": guidance,
        "objective": components.objective, "size": engine.size, "precision": str(engine.dtype).removeprefix("torch."),
    }  # fmt: skip
    encoder = None
    if replicate:  # loaded before the attacks: a judge that is missing or refused is an error at once
        encoder = DualEncoder.load(judge, device=str(engine.device), accept_terms=accept_terms, flag="--judge")
    scores = _attack(engine, [*members, *heldout], attacks, lang, times, draws, seed, batch, quiet)
    about = {"schema": 1, "model": components.name, "revision": components.revision, "settings": settings}
    counts = {"members": len(members), "heldout": len(heldout), "heldout_dropped_as_members": duplicates}
    result: dict[str, Any] = {**about, **counts, "attacks": {}}
    shuffled = np.random.default_rng(seed).permutation(len(heldout))
    for attack, values in scores.items():
        member_scores, heldout_scores = values[: len(members)], values[len(members) :]
        halves = np.array_split(heldout_scores[shuffled], 2)
        report = roc.report(member_scores, heldout_scores, seed=seed, resamples=resamples)
        control = roc.report(halves[0], halves[1], seed=seed, resamples=resamples)
        result["attacks"][attack] = {**report, "control": control, "verdict": verdict(report, control)}
    if encoder is not None:
        sources = members[:replicate]
        session, config = Session(engine), GenerationConfig(steps=steps, guidance=guidance)
        shared = session.settings(config)
        images = []
        for item in sources:
            prompt = {"prompt": text_of(item.record, lang), "seed": image_set.seed_for(seed, item.name)}
            images.append(PlannedImage({**prompt, **shared}))
        made = session.generate(images, config, batch=batch, quiet=quiet)
        generated = [image for _, image in made if image is not None]
        train = [item for item in image_set.collect(data, seed=seed) if split_of_record(item.record) == "train"]
        features = encoder.encode_images(_image(item, engine.size) for item in train)
        row_of = {item.name: row for row, item in enumerate(train)}
        copies = replication.compare(
            encoder.encode_images(generated), features, [row_of[item.name] for item in sources]
        )
        if figure is not None:
            panels: list[Image.Image] = []
            labels: list[str] = []
            for i in np.argsort(-copies.to_source)[:FIGURE_ROWS]:
                nearest = _image(train[copies.nearest[i]], engine.size)
                panels += [_image(sources[i], engine.size), generated[i], nearest]
                similarities = (f"similarity {value:.2f}" for value in (copies.to_source[i], copies.similarity[i]))
                labels += [images[i].settings["prompt"], *similarities]
            captions = {"captions": labels[::3]}
            write_sheet(figure, panels, labels, columns=3, heads=HEADS, settings=captions, overwrite=overwrite)
        judged = {"judge": encoder.name, "judge_revision": encoder.revision}
        result["replication"] = {**judged, **copies.report(seed), "steps": steps, "guidance": guidance, "seed": seed}
    if out is not None:
        write_json(out, result)
    return result


def verdict(report: dict[str, Any], control: dict[str, Any]) -> str:
    """Return what an attack's interval means: "leaks", "no leak found", or "control failed" where the control leaks."""
    if not control["auc"]["low"] <= 0.5 <= control["auc"]["high"]:
        return "control failed"
    return "leaks" if report["auc"]["low"] > 0.5 else "no leak found"


def table(result: dict[str, Any]) -> str:
    """Return the table that the command prints."""
    lines = [
        f"{result['members']:,} members, {result['heldout']:,} held-out images; 95 % intervals",
        f"{'attack':<8} {'AUC':<22} {'accuracy':<22} {'TPR at 1 % FPR':<22} {'control AUC':<22} verdict",
    ]
    for name, row in result["attacks"].items():
        values = (row["auc"], row["accuracy"], row["tpr@1%fpr"], row["control"]["auc"])
        cells = [f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]" for cell in values]
        lines.append(f"{name:<8} {' '.join(f'{cell:<22}' for cell in cells)} {row['verdict']}")
    if replication := result.get("replication"):
        lines.append(
            f"replication: top-1 similarity of {replication['drawn']:,} generated images to training images "
            f"{replication['similarity']['mean']:.3f}, between training images {replication['background']['mean']:.3f}; "
            f"{100 * replication['above_background']['value']:.1f} % are closer than 95 % of the training images are"
        )
    return "\n".join(lines)


def _check(
    attacks: Sequence[str], n: int, times: int, draws: int, replicate: int, resamples: int, batch: int, seed: int,
    out: str | None, figure: str | None, overwrite: bool,
) -> None:  # fmt: skip
    from commonart.core.audit.attacks import ATTACKS

    choose = f"Choose among {', '.join(ATTACKS)}."
    for attack in attacks:
        if attack not in ATTACKS:
            raise UsageError(f"--attacks {attack} is not an attack.", choose)
    if not attacks:
        raise UsageError("--attacks names no attack.", choose)
    check_at_least("-n", n, MIN_IMAGES)
    check_at_least("--resamples", resamples, 10)
    for flag, value in {"--times": times, "--draws": draws, "--batch": batch}.items():
        check_at_least(flag, value, 1)
    for flag, value in {"--replicate": replicate, "--seed": seed}.items():
        check_at_least(flag, value, 0)
    if figure is not None:
        metadata.format_of(figure, "--figure")
        if not replicate:
            raise UsageError("--figure shows the images of replication.", "Leave out --replicate 0.")
    for flag, path in (("-o", out), ("--figure", figure)):
        if path is not None:
            metadata.check_output(path, flag, overwrite)


def _split(data: str, n: int, lang: str | None, seed: int) -> tuple[list[ImageRef], list[ImageRef], int]:
    """Return members, held-out images that are not members too, and the number of those that are."""
    groups: dict[str, list[ImageRef]] = {"train": [], "heldout": []}
    for item in image_set.collect(data, seed=seed):
        split = split_of_record(item.record)
        if split in groups and text_of(item.record, lang):
            groups[split].append(item)
    members = groups["train"]
    member_hashes = {name for item in members for name in _hashes(item)}
    heldout = [item for item in groups["heldout"] if not _hashes(item) & member_hashes]
    for split, items in (("train", members), ("heldout", heldout)):
        if len(items) < MIN_IMAGES:
            captions = f"a caption in '{lang}'" if lang else "captions"
            raise CommonArtError(
                f"{data} holds {len(items)} images of the split {split} with {captions}; at least {MIN_IMAGES} are needed.",
                "Name the shards that the model was trained on; about one image in twenty is held out.",
            )
    if min(len(members), len(heldout)) < FEW_IMAGES:
        warn(f"with {len(members)} members and {len(heldout)} held-out images, the intervals will be wide.")
    return members[:n], heldout[:n], len(groups["heldout"]) - len(heldout)


def _hashes(item: ImageRef) -> set[str]:
    return {f"{name}:{item.record[name]}" for name in ("sha256", "phash") if item.record.get(name)}


def _attack(
    engine: Pipeline,
    items: Sequence[ImageRef],
    attacks: Sequence[str],
    lang: str | None,
    times: int,
    draws: int,
    seed: int,
    batch: int,
    quiet: bool,
) -> dict[str, Floats]:
    """Score all items by each attack. Members and others share the same batches, in one shuffled order."""
    import torch

    from commonart.core.audit.attacks import even_times
    from commonart.core.audit.attacks import scores as attack_scores
    from commonart.core.model.autoencoder import to_pixels

    order = np.random.default_rng(seed + 1).permutation(len(items))
    texts = engine.encode([text_of(item.record, lang) for item in items])
    scores = {attack: np.zeros(len(items)) for attack in attacks}
    timesteps = even_times(times)
    with progress("mia", total=len(items), unit=" images", quiet=quiet) as tick:
        for start in range(0, len(items), batch):
            rows = order[start : start + batch]
            images = [_image(items[row], engine.size) for row in rows]
            latents = engine.autoencoder().encode(to_pixels(images))[0].to(engine.device, torch.float32)
            conditional = _denoiser(engine, [texts[text_of(items[row].record, lang)] for row in rows])
            unconditional = _denoiser(engine, [texts[""]] * len(rows))
            for attack in attacks:
                scores[attack][rows] = attack_scores(
                    attack, conditional, unconditional, latents, times=timesteps, draws=draws, seed=seed
                )
            tick(len(rows))
    return scores


def _image(item: ImageRef, size: int) -> Image.Image:
    image = image_set.open_image(item.pointer)
    return image if image.size == (size, size) else resize_crop(image, size)


def _denoiser(engine: Pipeline, texts: Sequence[Tensor]) -> Denoiser:
    import torch

    from commonart.core.audit.attacks import Denoiser
    from commonart.core.model.transformer import stack_text

    model = engine.transformer()
    text_BLT, mask_BL = stack_text([states.to(engine.device, engine.dtype) for states in texts])

    def predict(x: Tensor, t: int) -> Tensor:
        timestep_B = torch.full((len(x),), float(t), device=x.device)
        return model(x.to(engine.dtype), timestep_B, text_BLT, mask_BL)[:, : x.shape[1]].float()

    return Denoiser(predict, engine.components.objective)
