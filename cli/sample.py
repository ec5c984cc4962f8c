"""`commonart sample`: images from prompts."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from typing import Annotated, Any

import typer

from commonart.cli import options


def sample(
    prompts: Annotated[list[str] | None, typer.Argument(metavar="[PROMPT]...", help="Prompts, or - for stdin.")] = None,
    out: Annotated[
        str | None, typer.Option("-o", "--out", metavar="OUT", help="File for one image, or folder for many.")
    ] = None,
    model: options.Model = "commonart-beta",
    file: Annotated[
        str | None, typer.Option(metavar="FILE", help="File of prompts: text, one per line, or a .jsonl of records.")
    ] = None,
    lang: Annotated[
        str | None,
        typer.Option(metavar="LANG", help="Which caption language to use as the prompt (default: the record's first)."),
    ] = None,
    steps: options.Steps = 20,
    guidance: options.Guidance = 4.5,
    negative: Annotated[str, typer.Option(metavar="TEXT", help="Negative prompt.")] = "",
    sampler: Annotated[str, typer.Option(metavar="dpm++|ddim", help="Sampler; dpm++ is second order.")] = "dpm++",
    interval: options.Interval = "0,1",
    rescale: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, callback=options.finite, help="Guidance rescale against overexposure; 0.7 is usual."
        ),
    ] = 0.0,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=options.MAX_SEED,
            help="Seed of each prompt's first image (default: 0; with -i, a new one each time).",
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="PIXELS", help="Image size: 512, or 640x384 (default: the model's own).")
    ] = None,
    aspect: Annotated[
        str | None, typer.Option(metavar="W:H", help="Aspect ratio at the area of --size: 3:2, 9:16.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Images per prompt.")] = 1,
    batch: options.Batch = 8,
    grid: Annotated[str | None, typer.Option(metavar="FILE", help="Labelled contact sheet of all images.")] = None,
    columns: Annotated[int | None, typer.Option(min=1, help="Columns of the contact sheet.")] = None,
    ending: options.Format = "png",
    text_encoder: options.TextEncoder = None,
    autoencoder: options.Autoencoder = None,
    quantize: options.QuantizeToFit = None,
    max_tokens: options.MaxTokens = None,
    compiled: options.Compile = False,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    no_metadata: options.NoMetadata = False,
    unmarked: options.Unmarked = False,
    sign: options.Sign = None,
    no_c2pa: options.NoC2pa = False,
    no_watermark: options.NoWatermark = False,
    log: options.Log = None,
    show: Annotated[bool, typer.Option("--show", help="Show each image in the terminal.")] = False,
    interactive: Annotated[
        bool, typer.Option("-i", "--interactive", help="Type prompts, see images, change settings; :help.")
    ] = False,
    refuse_memorised: Annotated[
        str | None,
        typer.Option(metavar="MIA.JSON", help="Refuse memorised prompts, by what `mia` measured on this model."),
    ] = None,
    accept_terms: options.AcceptTerms = None,
    allow_pickle: options.AllowPickle = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Generate images from prompts, marked as synthetic.

    Each image carries the mark of synthetic media, its prompt, seed and settings.

    \b
    commonart sample "草原のシマウマ" -o out.png
    commonart sample "草原の真ん中に大きな赤い丸" --model nano --seed 1 -o out.png
    commonart sample --file prompts.txt --model runs/512 -o images/ --grid grid.png
    """
    from commonart.core.data import jsonl
    from commonart.core.data.drops import Summary
    from commonart.core.errors import UsageError, telling
    from commonart.core.generation.request import GenerationConfig, ModelSpec
    from commonart.core.output import terminal
    from commonart.stages import sample as stage
    from commonart.stages import sample_live

    texts = list(prompts or ())
    if interactive and (texts or file):
        raise UsageError("-i asks for prompts itself.", "Leave prompts and --file out.")
    without_effect = {"--grid": grid, "--overwrite": overwrite, "--refuse-memorised": refuse_memorised}
    for flag in (flag for flag, value in without_effect.items() if interactive and value):
        raise UsageError(f"{flag} has no effect with -i.", "Leave it out.")
    if not interactive and (texts == ["-"] or (not texts and file is None and options.stdin_is_piped())):
        texts, file = [], file or "-"
    if "-" in texts:
        raise UsageError("- reads prompts from stdin, and stands alone.", "Leave it out, or the other prompts.")
    spec = ModelSpec(
        model, text_encoder=text_encoder, autoencoder=autoencoder, accept_terms=accept_terms or (),
        allow_pickle=allow_pickle, device=device, precision=precision, quantize=quantize, max_tokens=max_tokens,
        compiled=compiled,
    )  # fmt: skip
    config = GenerationConfig(
        steps=steps, guidance=guidance, negative=negative, sampler=sampler, rescale=rescale, size=size, aspect=aspect,
        interval=options.parse_interval("--interval", interval),
    )  # fmt: skip
    marks = options.marks(no_metadata, unmarked, sign, no_c2pa, no_watermark, log)
    viewer = terminal.viewer(required=show) if show or interactive else None
    silent = sys.stdout.isatty() if interactive else out is None  # a grid alone has no records
    shape: dict[str, Any] = {"n": n, "batch": batch, "ending": ending, "show": viewer}
    started, dropped = time.monotonic(), Counter[str]()
    written = 0

    def summary() -> Summary:
        return Summary("sample", written + dropped.total(), written, dropped, seconds=time.monotonic() - started)

    with telling(summary), jsonl.JsonlWriter("-") as writer, contextlib.redirect_stdout(sys.stderr):

        def emit(record: dict[str, Any]) -> None:
            nonlocal written
            written += 1
            if not silent:
                writer.write(record)

        if interactive:
            config.check()
            from commonart.core.generation.session import Session

            session = Session.open(spec, marks)
            written = sample_live.loop(session, config, out=out or "images", seed=seed, emit=emit, **shape)
        else:
            records = stage.sample(
                texts, spec, config, marks, out=out, file=file, lang=lang, grid=grid, columns=columns, seed=seed or 0,
                overwrite=overwrite, refuse_memorised=refuse_memorised, dropped=dropped, quiet=quiet, emit=emit, **shape,
            )  # fmt: skip
            if len(records) > written:
                dropped["duplicate"] = len(records) - written
    options.finish(summary(), quiet)
