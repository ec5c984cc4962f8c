"""`commonart export`: a trained model as a diffusers folder."""

from __future__ import annotations

from typing import Annotated

import typer

from commonart.cli import options


def export(
    source: Annotated[
        str, typer.Argument(metavar="MODEL", help="Run, checkpoint, name of the registry, folder or .safetensors file.")
    ],
    out: Annotated[str, typer.Option("-o", "--out", metavar="FOLDER", help="New folder for the model.")],
    text_encoder: Annotated[str, typer.Option(metavar="NAME", help="Text encoder to add to a bare transformer.")] = "",
    autoencoder: Annotated[str, typer.Option(metavar="NAME", help="Autoencoder to add to a bare transformer.")] = "",
    precision: Annotated[
        str, typer.Option(metavar="auto|bf16|fp16|fp32", help="Precision; auto is the stored one.")
    ] = "auto",
    heads: Annotated[int, typer.Option(min=1, help="Attention heads of a .safetensors file's transformer.")] = 16,
    accept_terms: options.AcceptTerms = None,
    quiet: options.Quiet = False,
) -> None:
    """Write a model as a folder that diffusers loads without remote code.

    \b
    commonart export runs/512 -o exported/
    commonart export runs/512/checkpoints/step-0010000 -o exported/
    """
    from commonart.stages import export as stage

    exported = stage.export(
        source,
        out,
        text_encoder=text_encoder,
        autoencoder=autoencoder,
        precision=precision,
        heads=heads,
        accept_terms=accept_terms or (),
    )
    options.finish(exported, quiet)
