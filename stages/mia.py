"""Does the model give away its training images? Membership inference that says when it cannot tell, and replication.

Members are the records of the split `train`, non-members those of `heldout`, which a hash fixed before training. Beside the
attacks stand a judge that never saw the model and, with `reference`, a model that never saw the images; where either tells
the groups apart, the verdict is "groups differ", and nothing is said about the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commonart.core.audit import ATTACKS, groups
from commonart.core.data.blocklist import Blocklist, read_blocklist
from commonart.core.data.files import write_json
from commonart.core.errors import CommonArtError, UsageError, check_at_least
from commonart.core.generation.prompts import text_of
from commonart.core.generation.request import GenerationConfig, ModelSpec
from commonart.core.log import warn
from commonart.core.output import metadata
from commonart.core.registry import lookup

if TYPE_CHECKING:
    from commonart.core.generation.pipeline import Pipeline

EXTRACTION_SEEDS, CLIQUE = 20, 8  # images of one caption, and how many of them must be near-identical


def run(
    model: str,
    data: str = "shards/",
    out: str | None = "mia.json",
    *,
    reference: str | None = None,
    keys: str | None = None,
    figure: str | None = None,
    n: int = 500,
    lang: str | None = None,
    attacks: Sequence[str] = ATTACKS,
    times: int = 10,
    draws: int = 1,
    permutations: int = 1000,
    replicate: int = 50,
    extract: int = 0,
    judge: str = "nano",
    steps: int = 20,
    guidance: float = 4.5,
    seed: int = 0,
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

    The measures of every image are kept beside `out`, in `NAME.scores.jsonl`: a second call goes on from there.

    Args:
        model: as `sample` takes it; a run must have been trained on the split `train` of `data`.
        data: shards or records with both splits.
        out, figure: files of the result, with its page for readers beside it (mia.html), and of an image like the paper's
            figure 2; None writes none.
        reference: a model that never saw the images, of the same size.
        keys: a file of works (keys, sha256, URLs, authors): were these in the training set? They need not be in `train`.
        n: the most members, and the most held-out images, chosen by `seed`.
        lang: language of the captions that condition the model; default: each record's first caption.
        times, draws: timesteps, and noise samples at each, of `loss`, `clid` and `pfami`.
        permutations: of the labels, for the p-values.
        replicate: images to generate from training captions, and as many from held-out ones; 0 skips replication.
        extract: training captions, and as many held-out ones, of which many images each are made; 0 skips extraction.
        judge: the encoder of the blind judge, and of the similarity of two images: a dual encoder, or SSCD's file.
        steps, guidance: of the generated images.

    Raises:
        UsageError: an unknown attack, a number out of range, or `out` exists.
        CommonArtError: `data` is not what the run was trained on, too few members or held-out images, or models that
            cannot be found or loaded.
    """
    _check(attacks, n, times, draws, permutations, replicate, extract, batch, seed, out, figure, overwrite)
    spec = ModelSpec(model, text_encoder, autoencoder, accept_terms, device=device, precision=precision, flag="MODEL")
    works = _works(keys)
    _check_models(spec, reference, judge)
    records = groups.read_records(data, works)
    # What cannot be used has been told by now: from here on torch is imported, and models are loaded.
    from commonart.core.audit import blind, extraction, memorised, page, permutation, replication, verdict
    from commonart.core.audit import figure as drawn
    from commonart.core.audit.scoring import Scoring, score
    from commonart.core.audit.table import FEW_IMAGES
    from commonart.core.generation.components import locate
    from commonart.core.generation.pipeline import Pipeline
    from commonart.core.generation.session import Session
    from commonart.core.metrics import features as features_of
    from commonart.core.metrics import sscd
    from commonart.core.metrics.clip_score import DualEncoder

    components = locate(spec)
    engine = Pipeline.open(components, spec)
    size, computed_in = engine.size, str(engine.dtype).removeprefix("torch.")
    other = None
    if reference is not None:
        other_spec = replace(spec, model=reference, text_encoder=None, autoencoder=None, flag="--reference")
        other = Pipeline.open(locate(other_spec), other_spec)
        _check_reference(other, engine)
    trained = groups.trained_keys(model, data) if works is None else frozenset[str]()
    chosen = groups.choose(records, data, n, lang, seed, size=size, works=works, trained=trained)
    if judge.endswith(".pt"):
        encoder = sscd.load(judge, device=str(engine.device))
    else:
        encoder = DualEncoder.load(judge, device=str(engine.device), accept_terms=accept_terms, flag="--judge")

    # What every image measures on the model, and what a judge sees of it that never saw the model.
    scoring = Scoring(tuple(attacks), times, draws, lang, seed)
    cache = Path(out).with_suffix(".scores.jsonl") if out is not None else None
    measures, readable = score(engine, chosen.items, scoring, batch=batch, cache=cache, quiet=quiet)
    chosen.drop(~readable, "unreadable")
    single, features = blind.look(chosen.items, encoder, lang, size)
    twins = groups.alike(features) & (not encoder.embedded)  # the embedded encoder knows no photographs
    chosen.drop(twins, "twin")
    measures = {name: values[readable][~twins] for name, values in measures.items()}
    single, features = {name: values[~twins] for name, values in single.items()}, features[~twins]
    inside, outside = chosen.members, chosen.heldout
    if min(len(inside), len(outside)) < FEW_IMAGES:
        called = "members" if works is None else "works in question"
        warn(f"with {len(inside)} {called} and {len(outside)} held-out images, only large leaks can be found.")

    captions = [{item.name: text_of(item.record, lang) for item in group} for group in (inside, outside)]
    prompts = memorised.audit(engine, *captions, batch=batch, quiet=quiet)
    config = GenerationConfig(steps=steps, guidance=guidance)
    extracted, given_back = None, list[extraction.Extracted]()
    if extract:
        extracted, given_back = extraction.audit(
            Session(engine), inside[:extract], outside[:extract], config, seeds=EXTRACTION_SEEDS, clique=CLIQUE,
            lang=lang, seed=seed, batch=batch, quiet=quiet,
        )  # fmt: skip
    replicated, examples = None, list[replication.Example]()
    if replicate:
        train = inside if works is not None else groups.training_images(records, seed)
        replicated, examples = replication.audit(
            Session(engine), encoder, inside[:replicate], outside[:replicate], train,
            config, lang=lang, seed=seed, batch=batch, cache=features_of.cache_folder(), quiet=quiet,
        )  # fmt: skip
        if figure is not None:
            drawn.write(figure, examples, size, overwrite=overwrite)
    del engine  # so that only one model's weights are held
    # The verdict, with the reference as the control.
    labels = permutation.deal(len(inside), len(outside), permutations, seed)
    blindly = blind.report(single, features, labels, seed=seed)
    flow, complexity = components.objective == "flow", single[blind.COMPLEXITY]
    target, control = verdict.scores_of(attacks, measures, complexity, flow), None
    if other is not None:
        expected, _ = score(other, chosen.items, scoring, batch=batch, cache=cache, label="reference", quiet=quiet)
        control = verdict.scores_of(attacks, expected, complexity, flow)
    judged = verdict.judge(target, control, blindly, labels, seed=seed)
    for part in (replicated, extracted):
        if (
            part and "verdict" in part and judged["verdict"] == verdict.DIFFER
        ):  # the held-out captions are no control then
            part["verdict"] = verdict.DIFFER
    result: dict[str, Any] = {
        "schema": 4,
        "model": components.name,
        "revision": components.revision,
        "data": data,
        "data_is_of_the_run": bool(trained),
        "question": "training set" if keys is None else f"keys of {keys}",
        "reference": None if other is None else {"model": other.components.name, "revision": other.components.revision},
        "members": len(inside),
        "heldout": len(outside),
        "dropped": dict(chosen.dropped),
        **judged,
        "curve": verdict.curve(measures, scoring.timesteps, len(inside)),
        "blind": {**blindly, "judge": encoder.name, "judge_revision": encoder.revision},
        "memorised_prompts": prompts,
        "replication": replicated,
        "extraction": extracted,
        "settings": {
            "seed": seed, "lang": lang, "times": times, "draws": draws, "permutations": permutations,
            "objective": components.objective, "size": size, "precision": computed_in,
            "steps": steps, "guidance": guidance,
        },
    }  # fmt: skip
    if out is not None:
        write_json(out, result)
        page.build(result, examples, given_back, size).write(Path(out).with_suffix(".html"))
    return result


def self_test(*, seed: int = 0, quiet: bool = False) -> tuple[str, list[bool]]:
    """Run the controls of `core.audit.self_test`: what the command prints, and whether each of them passed."""
    from commonart.core.audit import self_test

    result = self_test.run(seed=seed, quiet=quiet)
    return self_test.table(result), [control["passed"] for control in result.values()]


def table(result: dict[str, Any]) -> str:
    """Return the table that the command prints."""
    from commonart.core.audit import table

    return table.text(result)


def _check(
    attacks: Sequence[str], n: int, times: int, draws: int, permutations: int, replicate: int, extract: int, batch: int,
    seed: int, out: str | None, figure: str | None, overwrite: bool,
) -> None:  # fmt: skip
    choose = f"Choose among {', '.join(ATTACKS)}."
    for attack in attacks:
        if attack not in ATTACKS:
            raise UsageError(f"--attacks {attack} is not an attack.", choose)
    if not attacks:
        raise UsageError("--attacks names no attack.", choose)
    check_at_least("-n", n, groups.FEWEST)
    check_at_least("--permutations", permutations, 199)
    for flag, value in {"--times": times, "--draws": draws, "--batch": batch}.items():
        check_at_least(flag, value, 1)
    for flag, value in {"--replicate": replicate, "--extract": extract, "--seed": seed}.items():
        check_at_least(flag, value, 0)
    if figure is not None:
        metadata.format_of(figure, "--figure")
        if not replicate:
            raise UsageError("--figure shows the images of replication.", "Leave out --replicate 0.")
    page = None if out is None else str(Path(out).with_suffix(".html"))
    if page is not None and page == out:
        raise UsageError(f"-o {out} would be the page as well.", "Name a file like mia.json.")
    for flag, path in (("-o", out), ("-o", page), ("--figure", figure)):
        if path is not None:
            metadata.check_output(path, flag, overwrite)


def _works(keys: str | None) -> Blocklist | None:
    """Read the file of --keys; None without it. Raises as `read_blocklist`, and CommonArtError where it names nothing."""
    if keys is None:
        return None
    works = read_blocklist(keys, "--keys")
    if not works.hashes:
        raise CommonArtError(
            f"--keys {keys} names no works.", "Write keys, sha256, URLs or authors of records in --data, one a line."
        )
    return works


def _check_models(spec: ModelSpec, reference: str | None, judge: str) -> None:
    """Raise UsageError or CommonArtError for models that can be told by their names to be unknown, refused or unfit."""
    named = [spec]
    if reference is not None:
        named.append(ModelSpec(reference, accept_terms=spec.accept_terms, flag="--reference"))
    for each in named:
        row = each.find()
        if row is not None and row.cls.endswith("Pipeline") and not row.local:
            raise UsageError(
                f"{each.flag} {each.model} is a {row.cls}, which has no PixArt transformer.",
                "Name a model of ours: a run, an exported folder, commonart-beta or nano.",
            )
    if judge.endswith(".pt"):
        if not Path(judge).is_file():
            raise CommonArtError(f"--judge {judge} is not a file.", "Name a file of SSCD's weights, or a CLIP model.")
    else:
        lookup.check_terms(lookup.find_model(judge, "clip", "--judge"), spec.accept_terms, "--judge")


def _check_reference(reference: Pipeline, engine: Pipeline) -> None:
    """Raise UsageError where the scores of the two models cannot be compared."""
    own, other = engine.components, reference.components
    problem = ""
    if other.fingerprint == own.fingerprint:
        problem = "is the model itself"
    elif reference.size != engine.size:
        problem = f"generates {reference.size} pixels, and {own.name} {engine.size}"
    elif other.objective != own.objective:
        problem = f"was trained with {other.objective}, and {own.name} with {own.objective}"
    if problem:
        raise UsageError(
            f"--reference {other.name} {problem}.", "Name another model of the same kind, which never saw the images."
        )
