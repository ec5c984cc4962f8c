"""Pictures from prompts.

    commonart sample "草原のシマウマ" "a zebra in a meadow" --model nano -o pictures/ --grid samples.png

A seed gives the same picture whatever the batch, the order and the other prompts. Nothing is overwritten:
in a folder the name of a picture follows from all that it was drawn with, so the same command finds what it
has drawn and goes on from there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commonart.core.errors import UsageError
from commonart.core.generation import prompts as prompt_files
from commonart.core.generation.prompts import Prompt
from commonart.core.generation.request import GenerationConfig, Picture, is_folder, plan, record_of
from commonart.core.log import on_terminal, say, warn
from commonart.core.output import metadata

if TYPE_CHECKING:
    from PIL import Image


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
    sampler: str = "dpm++",
    interval: tuple[float, float] = (0.0, 1.0),
    rescale: float = 0.0,
    seed: int = 0,
    size: str | int | tuple[int, int] | None = None,
    aspect: str | None = None,
    n: int = 1,
    batch: int = 8,
    ending: str = "png",
    overwrite: bool = False,
    no_metadata: bool = False,
    unmarked: bool = False,
    sign: tuple[str, str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    quantize: str | None = None,
    max_tokens: int | None = None,
    compiled: bool = False,
    text_encoder: str | None = None,
    autoencoder: str | None = None,
    accept_terms: Sequence[str] = (),
    allow_pickle: bool = False,
    quiet: bool = False,
    show: Callable[[Image.Image], Any] | None = None,
    emit: Callable[[dict[str, Any]], Any] = lambda record: None,
) -> list[dict[str, Any]]:
    """Draw `n` pictures of every prompt and write them; returns one record for each picture, in order.

    Args:
        prompts: texts, or records with a `prompt` or `captions`.
        file: more prompts, as `core.generation.prompts.read` takes them.
        lang: which caption of a record is its prompt; default: its first.
        model: a name of the registry, a run, a local folder or a hub id, as `core.generation.components.locate` takes it.
        out: one picture's file, or a folder (made when it is not there). One of `out`, `grid` and `show` is needed.
        grid: a contact sheet of all pictures; `columns` and `heads` (titles over them) shape it. One that is there
            already and shows these very pictures, by its own settings, is kept.
        steps, guidance, sampler, interval, rescale: as `core.model.sampler.sample` takes them.
        negative: what to keep away from.
        seed: of each prompt's first picture; the next ones count on. It is never drawn by lot, so that the same call
            goes on where it was stopped. A record's own `seed` wins.
        size: pixels, 512 or "640x384"; default: what the model was trained for. `aspect`: "3:2", the nearest bucket,
            which is said.
        n: pictures of each prompt.
        batch: pictures that are drawn together; nothing but rounding depends on it.
        ending: png, jpg or webp, for pictures in a folder.
        overwrite: draw and replace what is there.
        no_metadata: leave the settings out of the pictures.
        unmarked: leave the synthetic-media mark out of the pictures.
        sign: files of a certificate chain and its private key: sign each picture by C2PA.
        device, precision: as `core.model.device` takes them.
        quantize, max_tokens, compiled: as `Pipeline.open` takes them.
        text_encoder, autoencoder: other ones than the model's own.
        accept_terms: names of models that are used on the user's word.
        allow_pickle: convert weights that are published only as pickles.
        show: called with each picture, in order.
        emit: called with each record as soon as its picture is written.

    Raises:
        UsageError: no prompt, an empty one, a path that exists, a size that the model cannot draw.
        CommonArtError: the model cannot be had or loaded, or a picture cannot be written.
    """
    asked = [*prompt_files.given(prompts, lang), *(prompt_files.read(file, lang) if file else ())]
    how = GenerationConfig(
        steps=steps, guidance=guidance, negative=negative, sampler=sampler, interval=interval, rescale=rescale,
        size=size, aspect=aspect,
    )  # fmt: skip
    _check(asked, how, out, grid, show is not None, n, batch, ending)
    from commonart.core.generation.session import Session
    from commonart.core.model import memory

    studio = Session.open(
        model,
        text_encoder=text_encoder,
        autoencoder=autoencoder,
        accept_terms=accept_terms,
        allow_pickle=allow_pickle,
        device=device,
        precision=precision,
        quantize=quantize,
        max_tokens=max_tokens,
        compiled=compiled,
        no_metadata=no_metadata,
        unmarked=unmarked,
        sign=sign,
    )
    shared = studio.shared(how)
    if aspect is not None:
        say(f"--aspect {aspect}: {shared['width']}x{shared['height']}")
    pictures = plan(asked, shared, seed=seed, n=n, out=out, ending=ending)
    shape: dict[str, Any] = {"columns": columns, "heads": list(heads)}
    sheet = _sheet_settings(shared, pictures, shape)
    if grid is not None and Path(grid).exists() and not overwrite:
        if no_metadata or metadata.settings_of(grid) != sheet:
            raise UsageError(f"--grid {grid}: this file is there already.", "Choose another name, or say --overwrite.")
        say(f"{grid} shows these pictures already")
        grid = None
    elif grid is not None:
        metadata.check_folder(Path(grid).parent)
    records: list[dict[str, Any]] = []
    keys: set[str] = set()
    shown: list[Image.Image] = []
    started = time.monotonic()
    for picture, image in studio.draw(
        pictures, how, batch=batch, overwrite=overwrite, images=grid is not None or show is not None, quiet=quiet
    ):
        if image is not None and grid is not None:
            shown.append(image)
        if image is not None and show is not None:
            show(image)
        records.append(record_of(picture))
        if records[-1]["key"] not in keys:  # one that was asked for twice is one picture, and one record downstream
            keys.add(records[-1]["key"])
            emit(records[-1])
    if studio.drawn and not quiet:
        seconds = time.monotonic() - started
        many = "picture" if studio.drawn == 1 else "pictures"
        rate = f"{studio.drawn:,} {many} in {seconds:.1f} s, {studio.drawn / seconds:.3g} images/s"
        say(f"{rate}; peak memory {memory.peak(studio.engine.device) / 1e9:.2f} GB ({studio.engine.device})")
    if grid is not None:
        write_grid(
            grid, shown, [p.prompt.text for p in pictures], **shape, settings=None if no_metadata else sheet,
            marked=not unmarked, overwrite=overwrite,
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
    marked: bool = True,
    overwrite: bool = False,
) -> None:
    """Write a labelled contact sheet with its marks, and say the legend of the labels that no font here could write."""
    from commonart.core.output.contact_sheet import contact_sheet

    sheet = contact_sheet(images, labels, columns=columns, heads=heads)
    if sheet.legend:
        warn(
            f"no font here can write {len(sheet.legend)} of the labels on {path}: they are numbers. "
            "Install a Japanese font, or name one with COMMONART_FONT."
        )
        for number, label in sheet.legend.items():
            say(f"  [{number}] {label}")
    metadata.save(sheet.image, path, settings=settings, marked=marked, overwrite=overwrite)


def _sheet_settings(shared: Mapping[str, Any], pictures: Sequence[Picture], shape: Mapping[str, Any]) -> dict[str, Any]:
    """What a contact sheet says of itself: all that its pixels follow from."""
    own = {"prompts": [p.settings["prompt"] for p in pictures], "seeds": [p.settings["seed"] for p in pictures]}
    return {**shared, **own, **{name: value for name, value in shape.items() if value}}


def shower(needed: bool) -> Callable[[Image.Image], Any] | None:
    """What shows a picture on the terminal; None where none can. Raises UsageError where it was `needed`."""
    dumb = os.environ.get("TERM") == "dumb"
    if dumb or not on_terminal():
        if needed:
            which = "and TERM says that this one has no colours" if dumb else "and stderr is none"
            raise UsageError(f"--show needs a terminal, {which}.", "Leave it out, or do not redirect stderr.")
        return None
    from commonart.core.output import terminal

    return lambda image: say(terminal.drawn(image).rstrip("\n"))


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a picture says about itself: {"image", "synthetic", "digital_source_type", "settings"}, and "c2pa" if signed."""
    from commonart.core.output import c2pa

    marks = metadata.read(path)
    signed = c2pa.read(path)
    return {
        "image": str(path),
        "synthetic": marks.synthetic,
        "digital_source_type": marks.digital_source_type,
        "settings": marks.settings,
        **({"c2pa": signed} if signed else {}),
    }


def _check(
    asked: Sequence[Prompt],
    how: GenerationConfig,
    out: str | None,
    grid: str | None,
    shown: bool,
    n: int,
    batch: int,
    ending: str,
) -> None:
    """Everything that can be known to be wrong before a model is looked for."""
    if not asked:
        raise UsageError("there is no prompt.", 'Say what to draw: commonart sample "a zebra in a meadow" -o out.png.')
    if out is None and grid is None and not shown:
        raise UsageError("there is nowhere to write to.", "Name a picture or a folder with -o, or a sheet with --grid.")
    for flag, path in (("-o", out), ("--grid", grid)):
        if path == "":
            raise UsageError(f"{flag} is empty.", "Name a file, or a folder for -o.")
    if out == "-":
        raise UsageError("-o - would put a picture among the records.", "Name a file, or a folder: -o pictures/.")
    if out is not None and grid is not None and Path(out) == Path(grid):
        raise UsageError(f"-o and --grid both name {out}.", "Give the sheet another name.")
    for flag, value in (("-n", n), ("--batch", batch)):
        if value < 1:
            raise UsageError(f"{flag} {value} is not possible.", "Give a whole number from 1 on.")
    how.check()
    metadata.format_of(f"picture.{ending}")
    for flag, path in (("-o", out), ("--grid", grid)):
        if path is None or (flag == "-o" and is_folder(path)):
            continue
        metadata.format_of(path)
        if flag == "--grid" and not Path(path).parent.is_dir():
            raise UsageError(f"--grid {path}: there is no folder {Path(path).parent}.", "Make it first.")
