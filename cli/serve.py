"""`commonart serve`: a web page to generate images with."""

from __future__ import annotations

from typing import Annotated

import typer

from commonart.cli import options


def serve(
    address: Annotated[
        str,
        typer.Argument(metavar="[HOST:]PORT", help="Address to listen on; a port alone is open to this machine only."),
    ] = "127.0.0.1:8000",
    out: Annotated[str, typer.Option("-o", "--out", metavar="FOLDER", help="Folder for the images.")] = "images",
    model: options.Model = "commonart-beta",
    batch: options.Batch = 8,
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
    root_path: Annotated[
        str, typer.Option(metavar="PATH|URL", help="Public path or URL behind a reverse proxy, such as /art.")
    ] = "",
    accept_terms: options.AcceptTerms = None,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Serve a web page to generate images with.

    It is in English or Japanese by the browser's language, and requests nothing from elsewhere. Ctrl-C ends it.
    Needs the extra `serve`: uv sync --extra serve.

    \b
    commonart serve --model nano
    commonart serve 0.0.0.0:8000 --model runs/512 -o images/
    commonart serve 8000 --root-path https://example.com/art
    """
    from commonart.core.generation.request import ModelSpec
    from commonart.stages import serve as stage

    spec = ModelSpec(
        model, text_encoder=text_encoder, autoencoder=autoencoder, accept_terms=accept_terms or (),
        allow_pickle=allow_pickle, device=device, precision=precision, quantize=quantize, max_tokens=max_tokens,
        compiled=compiled,
    )  # fmt: skip
    marks = options.marks(no_metadata, unmarked, sign, no_c2pa, no_watermark, log)
    options.finish(stage.run(spec, address, marks, out=out, batch=batch, ending=ending, root_path=root_path))
