"""`commonart sample`: pictures from prompts."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Annotated, Any

import typer

from commonart.cli import options


def sample(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]...", help="What to draw; - reads stdin.")
    ] = None,
    out: Annotated[
        str | None, typer.Option("-o", "--out", metavar="OUT", help="A picture's file, or a folder for many.")
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="commonart-beta, nano, a run's folder, an exported folder, a hub id.")
    ] = "commonart-beta",
    file: Annotated[
        str | None, typer.Option(metavar="FILE", help="More prompts: a text file, one a line, or a .jsonl.")
    ] = None,
    lang: Annotated[
        str | None, typer.Option(help="Which caption of a record is its prompt (default: its first).")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 20,
    guidance: options.Guidance = 4.5,
    negative: Annotated[str, typer.Option(metavar="TEXT", help="What not to draw.")] = "",
    sampler: Annotated[str, typer.Option(help="dpm++ (second order) or ddim.")] = "dpm++",
    interval: Annotated[
        str,
        typer.Option(metavar="LOW,HIGH", help="Guide only at these shares of the noise; elsewhere a step costs half."),
    ] = "0,1",
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
            help="Seed of each prompt's first image (default: 0; -i and the page draw a new one each time).",
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="PIXELS", help="512, or 640x384 (default: the model's own).")
    ] = None,
    aspect: Annotated[
        str | None, typer.Option(metavar="W:H", help="The nearest bucket of --size's area: 3:2, 9:16.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Pictures of each prompt.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time; it changes no picture.")] = 8,
    grid: Annotated[str | None, typer.Option(metavar="FILE", help="A labelled contact sheet of all pictures.")] = None,
    columns: Annotated[int | None, typer.Option(min=1, help="Of the grid.")] = None,
    ending: Annotated[str, typer.Option("--format", help="png, jpg or webp, for pictures in a folder.")] = "png",
    text_encoder: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another text encoder of the same width.")
    ] = None,
    autoencoder: Annotated[str | None, typer.Option(metavar="NAME", help="Another autoencoder.")] = None,
    quantize: Annotated[
        str | None,
        typer.Option(help="The text encoder in quanto-int8, bnb-nf4 or none (default: what fits into memory)."),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longer prompts are cut there, with a warning.")] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the transformer: minutes beforehand, less for each picture.")
    ] = False,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    no_metadata: Annotated[
        bool, typer.Option("--no-metadata", help="Leave prompt and settings out of the file.")
    ] = False,
    unmarked: Annotated[bool, typer.Option("--unmarked", help="Leave the synthetic-media mark out too.")] = False,
    sign: Annotated[
        str | None, typer.Option(metavar="CHAIN,KEY", help="Sign by C2PA with your certificate chain and key, in PEM.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Show each picture in the terminal.")] = False,
    interactive: Annotated[
        bool, typer.Option("-i", "--interactive", help="Type prompts, see pictures, change settings; :help.")
    ] = False,
    serve: Annotated[
        str | None, typer.Option(metavar="[HOST:]PORT", help="A small web page, for this machine alone by default.")
    ] = None,
    inspect: Annotated[
        str | None, typer.Option(metavar="FILE", help="Print what a picture's marks say, and draw nothing.")
    ] = None,
    accept_terms: options.AcceptTerms = None,
    allow_pickle: options.AllowPickle = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Make images from prompts, marked as synthetic.

    Each image carries the mark of synthetic media, its prompt, seed and settings.

    \b
    commonart sample "草原のシマウマ" -o out.png
    commonart sample "草原の真ん中に大きな赤い丸" --model nano --seed 1 -o out.png
    commonart sample --file prompts.txt --model runs/512 -o pictures/ --grid grid.png
    commonart sample --serve 8000 --model nano
    """
    how: dict[str, Any] = dict(locals())  # what is left of it below goes to all ways to draw
    from commonart.core.errors import UsageError

    live = interactive or serve is not None
    if inspect is not None:
        import json

        from commonart.stages import sample as stage

        if prompts or file or out or grid or live:
            raise UsageError("--inspect draws nothing.", "Leave prompts, -o and --grid out, or leave it out.")
        told = json.dumps(stage.inspect(inspect), indent=2, ensure_ascii=False)
        print(told.encode("utf-8", "backslashreplace").decode())  # whatever stands in the picture
        return
    texts = list(prompts or ())
    if texts == ["-"] or (not texts and file is None and options.stdin_is_piped() and not live):
        texts, file = [], file or "-"
    if "-" in texts:
        raise UsageError("- reads prompts from stdin, and stands alone.", "Leave it out, or the other prompts.")
    if live and (texts or file or (interactive and serve is not None)):
        raise UsageError("-i and --serve each ask for prompts themselves.", "Leave prompts and --file out.")
    idle = {"--grid": grid, "--overwrite": overwrite, "--show": show and serve}
    for flag in [flag for flag, value in idle.items() if live and value]:
        raise UsageError(f"{flag} does nothing with {'-i' if interactive else '--serve'}.", "Leave it out.")
    if not texts and file is None and not live:
        raise UsageError("there is no prompt.", 'For example: commonart sample "草原のシマウマ" -o out.png.')
    from commonart.core.data import jsonl, stream
    from commonart.stages import sample as stage
    from commonart.stages import sample_live, sample_page

    for name in ("prompts", "file", "show", "interactive", "serve", "inspect"):
        del how[name]
    batch_only = {name: how.pop(name) for name in ["out", "lang", "grid", "columns", "seed", "n", "overwrite", "quiet"]}
    how |= {"interval": options.parse_interval("--interval", interval), "accept_terms": accept_terms or ()}
    how["sign"] = options.parse_two("--sign", sign) if sign else None
    see = stage.shower(show) if show or interactive else None
    started = time.monotonic()
    # Among pictures on a terminal records are noise, and a grid alone has none.
    silent = sys.stdout.isatty() if interactive else out is None
    with jsonl.Writer("-") as writer, contextlib.redirect_stdout(sys.stderr):
        emitted = 0

        def emit(record: dict[str, Any]) -> None:
            nonlocal emitted
            emitted += 1
            if not silent:
                writer.write(record)

        if serve is not None:
            drawn = emitted = sample_page.run(serve, out=out or "pictures", seed=seed, n=n, **how)
        elif interactive:
            drawn = sample_live.run(out=out or "pictures", seed=seed, n=n, show=see, emit=emit, **how)
        else:
            batch_only["seed"] = seed or 0  # no lot, so that the same command goes on
            drawn = len(stage.sample(texts, file=file, show=see, emit=emit, **batch_only, **how))
    done = stream.Summary("sample", read=drawn, written=emitted, seconds=time.monotonic() - started)
    options.finish(done, quiet)
