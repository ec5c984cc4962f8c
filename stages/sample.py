"""Pictures from prompts.

    commonart sample "草原のシマウマ" "a zebra in a meadow" --model nano -o pictures/ --grid samples.png

A seed gives the same picture whatever the batch, the order and the other prompts. Nothing is overwritten:
in a folder the name of a picture follows from all that it was drawn with, so the same command finds what it
has drawn and goes on from there.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commonart.core import provenance
from commonart.core.data import prompts as prompt_files
from commonart.core.data.drawings import Picture, already_drawn, pixels, plan, record_of
from commonart.core.data.prompts import Prompt
from commonart.core.errors import UsageError
from commonart.core.log import progress, say, warn

if TYPE_CHECKING:
    from PIL import Image

    from commonart.core.model.pipeline import Pipeline


def sample(
    prompts: Iterable[str | Mapping[str, Any]] = (),
    *,
    file: str | None = None,
    lang: str | None = None,
    model: str = "commonart-beta",
    out: str | None = None,
    grid: str | None = None,
    columns: int | None = None,
    heads: Sequence[str] = (),
    steps: int = 20,
    guidance: float = 4.5,
    negative: str = "",
    seed: int | None = None,
    size: str | int | tuple[int, int] | None = None,
    n: int = 1,
    batch: int = 8,
    ending: str = "png",
    overwrite: bool = False,
    no_metadata: bool = False,
    unmarked: bool = False,
    device: str = "auto",
    precision: str = "auto",
    quantize: str | None = None,
    max_tokens: int | None = None,
    text_encoder: str | None = None,
    autoencoder: str | None = None,
    accept_terms: Sequence[str] = (),
    quiet: bool = False,
    emit: Callable[[dict[str, Any]], Any] = lambda record: None,
) -> list[dict[str, Any]]:
    """Draw `n` pictures of every prompt and write them; returns one record for each picture, in order.

    Args:
        prompts: texts, or records with a `prompt` or `captions`.
        file: more prompts, as `core.data.prompts.read` takes them.
        lang: which caption of a record is its prompt; default: its first.
        model: a name of the registry, a run, a local folder or a hub id, as `core.model.parts.locate` takes it.
        out: one picture's file, or a folder (made when it is not there). One of `out` and `grid` is needed.
        grid: a contact sheet of all pictures; `columns` and `heads` (titles over them) shape it.
        steps: of the sampler.
        guidance: how strongly the prompt counts (classifier-free guidance); 1 draws without it.
        negative: what to keep away from.
        seed: of each prompt's first picture; the next ones count on. None draws one and says it. A record's own
            `seed` wins.
        size: pixels, 512 or "640x384"; default: what the model was trained for.
        n: pictures of each prompt.
        batch: pictures that are drawn together; nothing but rounding depends on it.
        ending: png, jpg or webp, for pictures in a folder.
        overwrite: draw and replace what is there.
        no_metadata: leave the settings out of the pictures.
        unmarked: leave the synthetic-media mark out of the pictures.
        device, precision: as `core.model.device` takes them.
        quantize, max_tokens: of the text encoder, as `TextEncoder.load` takes them.
        text_encoder, autoencoder: other ones than the model's own.
        accept_terms: names of models that are used on the user's word.
        emit: called with each record as soon as its picture is written.

    Raises:
        UsageError: no prompt, an empty one, a path that exists, a size that the model cannot draw.
        CommonArtError: the model cannot be had or loaded, or a picture cannot be written.
    """
    asked = [*prompt_files.given(prompts, lang), *(prompt_files.read(file, lang) if file else ())]
    _check(asked, out, grid, n, steps, guidance, batch, ending, overwrite)
    from commonart.core.model.parts import locate
    from commonart.core.model.pipeline import Pipeline

    parts = locate(model, text_encoder=text_encoder, autoencoder=autoencoder, accept_terms=accept_terms)
    engine = Pipeline.open(parts, device=device, precision=precision, quantize=quantize, max_tokens=max_tokens)
    width, height = pixels(size, engine.size, engine.multiple)
    if seed is None:
        seed = secrets.randbelow(2**31)
        say(f"seed {seed}")
    shared = {
        "model": parts.name, "revision": parts.revision, "objective": parts.objective, "steps": steps,
        "guidance": guidance, "negative": negative, "width": width, "height": height,
    }  # fmt: skip
    pictures = plan(asked, shared, seed=seed, n=n, out=out, ending=ending)
    there = already_drawn(pictures, overwrite, metadata=not no_metadata)
    waiting = list({p.name: p for p in pictures if p.name not in there}.values())
    drawn = _draw(engine, waiting, (width, height), batch, quiet)
    records: list[dict[str, Any]] = []
    shown: dict[str, Image.Image] = {}
    for picture in pictures:
        if picture.name not in there:
            image = next(drawn)
            there.add(picture.name)
            if picture.path is not None:
                settings = None if no_metadata else picture.settings
                provenance.save(image, picture.path, settings=settings, marked=not unmarked, overwrite=overwrite)
            if grid is not None:
                shown[picture.name] = image
        elif grid is not None and picture.name not in shown:
            shown[picture.name] = _open(picture)
        records.append(record_of(picture))
        emit(records[-1])
    if grid is not None:
        labels = [p.prompt.text for p in pictures]
        write_grid(
            grid, [shown[p.name] for p in pictures], labels, columns=columns, heads=heads, settings=shared,
            metadata=not no_metadata, marked=not unmarked, overwrite=overwrite,
        )  # fmt: skip
    return records


def write_grid(
    path: str | os.PathLike[str],
    images: Sequence[Image.Image],
    labels: Sequence[str],
    *,
    columns: int | None = None,
    heads: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    metadata: bool = True,
    marked: bool = True,
    overwrite: bool = False,
) -> dict[str, str]:
    """Write a labelled contact sheet; returns the legend of the labels that no font here could write."""
    from commonart.core.pictures import contact_sheet

    sheet = contact_sheet(images, labels, columns=columns, heads=heads)
    if sheet.legend:
        warn(
            f"no font here can write {len(sheet.legend)} of the labels on {path}: they are numbers. "
            "Install a Japanese font, or name one with COMMONART_FONT."
        )
        for number, label in sheet.legend.items():
            say(f"  [{number}] {label}")
    said = {**(settings or {}), "prompts": list(labels)}
    provenance.save(sheet.image, path, settings=said if metadata else None, marked=marked, overwrite=overwrite)
    return sheet.legend


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a picture says about itself: {"image", "synthetic", "digital_source_type", "settings"}."""
    marks = provenance.read(path)
    return {
        "image": str(path),
        "synthetic": marks.synthetic,
        "digital_source_type": marks.digital_source_type,
        "settings": marks.settings,
    }


def _check(
    asked: Sequence[Prompt],
    out: str | None,
    grid: str | None,
    n: int,
    steps: int,
    guidance: float,
    batch: int,
    ending: str,
    overwrite: bool,
) -> None:
    """Everything that can be known to be wrong before a model is looked for."""
    if not asked:
        raise UsageError("there is no prompt.", 'Say what to draw: commonart sample "a zebra in a meadow" -o out.png.')
    if out is None and grid is None:
        raise UsageError("there is nowhere to write to.", "Name a picture or a folder with -o, or a sheet with --grid.")
    for flag, value in (("-n", n), ("--steps", steps), ("--batch", batch)):
        if value < 1:
            raise UsageError(f"{flag} {value} is not possible.", "Give a whole number from 1 on.")
    if not 0 <= guidance <= 100:
        raise UsageError(f"--guidance {guidance} is not possible.", "Give a number from 0 to 100; 4.5 is usual.")
    provenance.format_of(f"picture.{ending}")
    for flag, path in (("-o", out), ("--grid", grid)):
        if path is None or (flag == "-o" and (Path(path).suffix == "" or Path(path).is_dir())):
            continue
        provenance.format_of(path)
        if flag == "--grid" and Path(path).exists() and not overwrite:
            raise UsageError(f"{flag} {path}: this file is there already.", "Choose another name, or say --overwrite.")


def _draw(
    engine: Pipeline, pictures: Sequence[Picture], size: tuple[int, int], batch: int, quiet: bool
) -> Iterator[Image.Image]:
    from commonart.core.model.pipeline import Job

    if not pictures:
        return
    first = pictures[0].settings
    jobs = [Job(p.settings["prompt"], p.settings["seed"], p.settings["negative"]) for p in pictures]
    with progress("sample", total=len(jobs), unit=" images", quiet=quiet) as tick:
        for _, image in engine.draw(
            jobs, size=size, steps=first["steps"], guidance=first["guidance"], batch=batch, tick=tick
        ):
            yield image


def _open(picture: Picture) -> Image.Image:
    from PIL import Image

    with Image.open(str(picture.path)) as image:
        return image.convert("RGB")
