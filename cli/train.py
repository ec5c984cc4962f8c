"""`commonart train`: one stage of the recipe table, on one machine or many."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from commonart.cli import options


def train(
    stage: Annotated[str, typer.Option(metavar="NAME", help="Training stage, a name of --list.")] = "",
    data: Annotated[
        str, typer.Option(metavar="FOLDER", help="Shards, with or without cached features; A,B:0.5 to mix several.")
    ] = "shards/",
    policy: Annotated[
        str,
        typer.Option(
            metavar="POLICY", help="Licence policy that every record must meet: strict, paper, or a TOML file."
        ),
    ] = "paper",
    blocklist: options.Blocklist = "",
    skip_unlicensed: options.SkipUnlicensed = False,
    out: Annotated[
        str, typer.Option("-o", "--out", metavar="RUN", help="Folder of the run (default: runs/STAGE).")
    ] = "",
    gpus: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Number of processes; started here unless srun or torchrun did."),
    ] = None,
    init: Annotated[
        str,
        typer.Option(
            metavar="PATH", help="Initial weights, or none (default: the newest checkpoint of the stage before)."
        ),
    ] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Override of a recipe field (repeatable).")
    ] = None,
    text_encoder: Annotated[
        str, typer.Option(metavar="NAME", help="Text encoder for captions without cached features.")
    ] = "",
    autoencoder: Annotated[
        str, typer.Option(metavar="NAME", help="Autoencoder for images without cached features.")
    ] = "",
    vision_tower: Annotated[
        str,
        typer.Option(metavar="NAME", help="Vision encoder of a captioner (SigLIP or CLIP), or of --set repa=WEIGHT."),
    ] = "",
    language_model: Annotated[str, typer.Option(metavar="NAME", help="Language model of a captioner.")] = "",
    quantize: options.Quantize = None,
    language: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LANG=WEIGHT", help="Sampling weight of a caption language; others are left out (repeatable)."
        ),
    ] = None,
    caption_length: Annotated[
        str,
        typer.Option(metavar="LENGTH=WEIGHT[,...]", help="Sampling weights of caption lengths, as long=3,short=1."),
    ] = "",
    max_seconds: Annotated[
        float,
        typer.Option(min=0.0, callback=options.finite, help="Seconds after which to save and stop; 0 for no limit."),
    ] = 0.0,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 1000,
    sample_every: Annotated[int, typer.Option(min=0, help="Steps between sample grids; 0 for none.")] = 0,
    prompt: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Prompt of the sample grid (repeatable; default: held-out captions)."),
    ] = None,
    clip: Annotated[
        str,
        typer.Option(
            metavar="NAME[,JA]", help="CLIP model that scores the sample grid, and a second for Japanese prompts."
        ),
    ] = "",
    heldout_every: Annotated[
        int, typer.Option(min=0, help="Steps between measurements of the held-out loss; 0 for none.")
    ] = 1000,
    log_every: Annotated[int, typer.Option(min=1, help="Steps between lines of metrics.jsonl.")] = 10,
    track: Annotated[str, typer.Option(metavar="NAME", help="Also send metrics to wandb or trackio.")] = "",
    keep: Annotated[int, typer.Option(min=1, help="Number of checkpoints to keep.")] = 3,
    workers: Annotated[int, typer.Option(min=0, help="Data-loading threads.")] = 2,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the model with torch.compile.")] = False,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Gradient checkpointing: less memory, more time.")
    ] = False,
    fsdp: Annotated[
        bool, typer.Option("--fsdp", help="Shard model and optimizer state over the GPUs (FSDP2).")
    ] = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    precision: options.TrainingPrecision = "auto",
    accept_terms: options.AcceptTerms = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved run, its parameters, FLOPs, memory and time.")
    ] = False,
    calibrate: Annotated[
        float,
        typer.Option(
            min=0.0, callback=options.finite, metavar="SECONDS", help="Seconds of real steps to time with --dry-run."
        ),
    ] = 0.0,
    list_only: Annotated[bool, typer.Option("--list", help="Print the recipe table.")] = False,
    slurm_script: Annotated[
        bool, typer.Option("--slurm-script", help="Print an sbatch script that requeues itself.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Train the transformer or a captioner, or continue an interrupted run.

    \b
    commonart train --stage fast-nano --data shards/ --max-seconds 150
    commonart train --stage 256-early --data shards/ --gpus 2
    srun commonart train --stage 512 --gpus 32
    commonart train --stage captioner-align --language ja=1
    """
    from commonart.core import recipes
    from commonart.core.errors import UsageError

    if list_only:
        print(recipes.table())
        return
    if not stage:
        raise UsageError("--stage is missing.", f"One of: {', '.join(recipes.STAGES)}; see commonart train --list.")
    from commonart.core.settings import Settings

    weights = options.parse_pairs("--language", language)
    lengths = options.parse_pairs("--caption-length", options.split_names(caption_length))
    settings = Settings(
        stage=stage,
        data=data,
        policy=policy,
        blocklist=blocklist,
        skip_unlicensed=skip_unlicensed,
        out=out,
        gpus=gpus,
        init=init,
        overrides=options.parse_pairs("--set", set_),
        text_encoder=text_encoder,
        autoencoder=autoencoder,
        vision_tower=vision_tower,
        language_model=language_model,
        quantize=quantize or "",
        languages={name: options.parse_number("--language", weight) for name, weight in weights.items()},
        lengths={name: options.parse_number("--caption-length", weight) for name, weight in lengths.items()},
        max_seconds=max_seconds,
        checkpoint_every=checkpoint_every,
        sample_every=sample_every,
        prompts=prompt or (),
        clip=clip,
        heldout_every=heldout_every,
        log_every=log_every,
        track=track,
        keep=keep,
        workers=workers,
        compile=compile,
        checkpointing=checkpointing,
        fsdp=fsdp,
        seed=seed,
        device=device,
        precision=precision,
        accept_terms=accept_terms or (),
        quiet=quiet,
    )
    settings.check()
    if slurm_script:
        from commonart.core import slurm

        recipes.accumulation(settings.recipe, gpus or 1)
        # The script runs this very command line, so that what was tried is what is queued.
        print(slurm.sbatch_script(sys.argv[2:], name=f"commonart-{stage}", gpus=gpus or 1), end="")
        return
    if dry_run:
        import orjson

        from commonart.core.training import captioner_plan
        from commonart.core.training import dry_run as diffusion_plan

        plan = captioner_plan.plan if settings.recipe.trains else diffusion_plan.plan
        print(orjson.dumps(plan(settings, calibrate), option=orjson.OPT_INDENT_2).decode())
        return
    from commonart.stages import train as stage_module

    summary = stage_module.run(settings)
    if summary is not None:  # of processes that srun or torchrun started, the first says what was done
        options.finish(summary, quiet)
