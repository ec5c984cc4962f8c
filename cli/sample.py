"""`commonart sample`: pictures from prompts."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Annotated

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
    steps: Annotated[int, typer.Option(help="Steps of DPM++ 2M.")] = 20,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance; 1 is none.")] = 4.5,
    negative: Annotated[str, typer.Option(metavar="TEXT", help="What not to draw.")] = "",
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same picture (default: one is drawn).")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="PIXELS", help="512, or 640x384 (default: the model's own).")
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
    quantize: Annotated[str | None, typer.Option(help="quanto-int8: the text encoder in 8 bits.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longer prompts are cut there, with a warning.")] = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    no_metadata: Annotated[
        bool, typer.Option("--no-metadata", help="Leave prompt and settings out of the file.")
    ] = False,
    unmarked: Annotated[bool, typer.Option("--unmarked", help="Leave the synthetic-media mark out too.")] = False,
    inspect: Annotated[
        str | None, typer.Option(metavar="FILE", help="Print what a picture's marks say, and draw nothing.")
    ] = None,
    accept_terms: options.AcceptTerms = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw pictures. Each carries the mark of synthetic media, its prompt, seed and settings.

    \b
    commonart sample "草原のシマウマ" -o out.png
    commonart sample "草原の赤い丸" --model nano --seed 1 -o out.png
    commonart sample --file prompts.txt --model runs/512 -o pictures/ --grid grid.png
    """
    from commonart.core.errors import UsageError

    if inspect is not None:
        import orjson

        from commonart.stages import sample as stage

        print(orjson.dumps(stage.inspect(inspect), option=orjson.OPT_INDENT_2).decode())
        return
    texts = list(prompts or ())
    if texts == ["-"] or (not texts and file is None and options.piped()):
        texts, file = [], file or "-"
    if not texts and file is None:
        raise UsageError("there is no prompt.", 'For example: commonart sample "草原のシマウマ" -o out.png.')
    from commonart.core.data import jsonl, stream
    from commonart.stages import sample as stage

    started = time.monotonic()
    with jsonl.Writer("-") as writer, contextlib.redirect_stdout(sys.stderr):
        drawn = stage.sample(
            texts,
            file=file,
            lang=lang,
            model=model,
            out=out,
            grid=grid,
            columns=columns,
            steps=steps,
            guidance=guidance,
            negative=negative,
            seed=seed,
            size=size,
            n=n,
            batch=batch,
            ending=ending,
            overwrite=overwrite,
            no_metadata=no_metadata,
            unmarked=unmarked,
            device=device,
            precision=precision,
            quantize=quantize,
            max_tokens=max_tokens,
            text_encoder=text_encoder,
            autoencoder=autoencoder,
            accept_terms=accept_terms or (),
            quiet=quiet,
            emit=writer.write if out is not None else lambda record: None,  # a grid alone has no records
        )
    done = stream.Summary("sample", read=len(drawn), written=len(drawn), seconds=time.monotonic() - started)
    options.finish(done, quiet)
