"""Images from prompts.

A seed gives the same image whatever the batch, the order and the other prompts. Nothing is overwritten: in a folder the
name of an image follows from all that it was generated with, so the same command finds what it has made and goes on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.generation import prompts as prompt_files
from commonart.core.generation.outputs import PlannedImage, is_folder, plan, record_of
from commonart.core.generation.request import DEFAULT_CONFIG, GenerationConfig, ModelSpec
from commonart.core.log import say, warn
from commonart.core.output import metadata
from commonart.core.output.metadata import DEFAULT_MARKS, MarkOptions

if TYPE_CHECKING:
    from PIL import Image

    from commonart.core.audit.memorised import PromptFilter
    from commonart.core.generation.session import Session


def sample(
    prompts: Iterable[str | Mapping[str, Any]],
    spec: ModelSpec,
    config: GenerationConfig = DEFAULT_CONFIG,
    marks: MarkOptions = DEFAULT_MARKS,
    *,
    out: str | None = None,
    file: str | None = None,
    lang: str | None = None,
    grid: str | None = None,
    columns: int | None = None,
    seed: int = 0,
    n: int = 1,
    batch: int = 8,
    ending: str = "png",
    overwrite: bool = False,
    refuse_memorised: str | None = None,
    dropped: Counter[str] | None = None,
    quiet: bool = False,
    show: Callable[[Image.Image], Any] | None = None,
    emit: Callable[[dict[str, Any]], Any] = lambda record: None,
) -> list[dict[str, Any]]:
    """Generate and write `n` images of every prompt; return one record for each image, in order.

    Args:
        prompts: texts, or records with a `prompt` or `captions`.
        out: one image's file, or a folder, which is created. One of `out`, `grid` and `show` is needed.
        file: more prompts, as `core.generation.prompts.read` takes them.
        lang: the caption language of a record's prompt; default: its first caption.
        grid: a contact sheet of all images, with `columns`. An existing one that shows these very images, by its own
            settings, is kept.
        seed: as `plan` takes it. It is never random, so that the same call goes on where it was stopped.
        batch: images that are generated together; only rounding depends on it.
        ending: png, jpg or webp, for images in a folder.
        overwrite: generate again and replace existing files.
        refuse_memorised: a mia.json of the model; no image is made of a prompt that is memorised by its threshold.
        dropped: counts the images that were refused, as `memorised`.
        emit: called with each record as soon as its image is written; once where it was asked for twice.

    Raises:
        UsageError: no prompt, an empty one, a path that exists, a size that the model does not support.
        CommonArtError: the model cannot be found or loaded, every prompt is refused, or an image cannot be written.
    """
    prompt_list = [*prompt_files.from_values(prompts, lang), *(prompt_files.read(file, lang) if file else ())]
    if not prompt_list:
        raise UsageError("There is no prompt.", 'For example: commonart sample "草原のシマウマ" -o out.png.')
    if out is None and grid is None and show is None:
        raise UsageError("There is nowhere to write to.", "Name a file or a folder with -o, or a sheet with --grid.")
    _check(config, out, grid, n, batch, ending)
    prompt_filter = None
    if refuse_memorised is not None:
        from commonart.core.audit.memorised import PromptFilter

        prompt_filter = PromptFilter.read(refuse_memorised)
    from commonart.core.generation.session import Session
    from commonart.core.model import memory

    session = Session.open(spec, marks)
    shared = session.settings(config)
    if config.aspect is not None:
        say(f"--aspect {config.aspect}: {shared['width']}x{shared['height']}")
    images = plan(prompt_list, shared, seed=seed, n=n, out=out, ending=ending)
    if prompt_filter is not None:
        planned = images
        images = _without_memorised(planned, prompt_filter, session, batch)
        if dropped is not None and len(images) < len(planned):
            dropped["memorised"] += len(planned) - len(images)
    per_image = {f"{name}s": [image.settings[name] for image in images] for name in ("prompt", "seed")}
    sheet = {**shared, **per_image, **({"columns": columns} if columns else {})}  # all that its pixels follow from
    if grid is not None and Path(grid).exists() and not overwrite:
        if not marks.settings or metadata.settings_of(grid) != sheet:
            raise metadata.already_exists(grid, "--grid")
        say(f"{grid} already shows these images")
        grid = None
    elif grid is not None:
        metadata.check_folder(Path(grid).parent)
    records, keys = list[dict[str, Any]](), set[str]()
    shown: list[Image.Image] = []
    started = time.monotonic()
    needed = grid is not None or show is not None
    for image, pixels in session.generate(images, config, batch=batch, overwrite=overwrite, reopen=needed, quiet=quiet):
        if pixels is not None and grid is not None:
            shown.append(pixels)
        if pixels is not None and show is not None:
            show(pixels)
        record = record_of(image)
        records.append(record)
        if record["key"] not in keys:
            keys.add(record["key"])
            emit(record)
    if session.generated and not quiet:
        seconds = time.monotonic() - started
        device = session.generator.device
        say(
            f"{session.generated:,} {'image' if session.generated == 1 else 'images'} in {seconds:.1f} s, "
            f"{session.generated / seconds:.3g} images/s; peak memory {memory.peak(device) / 1e9:.2f} GB ({device})"
        )
    if grid is not None:
        settings, labels = sheet if marks.settings else None, sheet["prompts"]
        from commonart.core.output.contact_sheet import write_sheet

        write_sheet(
            grid, shown, labels, columns=columns, settings=settings, marked=marks.synthetic, overwrite=overwrite,
            finish=session.signed,
        )  # fmt: skip
    return records


def _without_memorised(
    images: list[PlannedImage], prompt_filter: PromptFilter, session: Session, batch: int
) -> list[PlannedImage]:
    """Return the images whose prompts are not memorised, and name the other prompts. Raises as `PromptFilter.refused`."""
    refused = prompt_filter.refused(session.generator, [image.settings["prompt"] for image in images], batch=batch)
    for prompt, magnitude in refused.items():
        warn(f"refused as memorised: {prompt!r} (magnitude {magnitude:.4g}, threshold {prompt_filter.threshold:.4g})")
    kept = [image for image in images if image.settings["prompt"] not in refused]
    if not kept:
        raise CommonArtError(
            f"No image was made: every prompt is memorised by {prompt_filter.path}.",
            "Say it in other words, or leave --refuse-memorised out.",
        )
    return kept


def _check(config: GenerationConfig, out: str | None, grid: str | None, n: int, batch: int, ending: str) -> None:
    """Raise UsageError for everything that can be known to be wrong before a model is looked for."""
    for flag, path in (("-o", out), ("--grid", grid)):
        if path == "":
            raise UsageError(f"{flag} is empty.", "Name a file, or a folder for -o.")
    if out == "-":
        raise UsageError("-o - would put an image among the records.", "Name a file, or a folder: -o images/.")
    if out is not None and grid is not None and Path(out) == Path(grid):
        raise UsageError(f"-o and --grid both name {out}.", "Give the sheet another name.")
    for flag, value in (("-n", n), ("--batch", batch)):
        if value < 1:
            raise UsageError(f"{flag} {value} must be at least 1.", "For example 4.")
    config.check()
    metadata.format_of(f"image.{ending}", "--format")
    if out is not None and not is_folder(out):
        metadata.format_of(out)
    if grid is not None:
        metadata.format_of(grid, "--grid")
        if not Path(grid).parent.is_dir():
            raise UsageError(f"--grid {grid}: the folder {Path(grid).parent} does not exist.", "Create it first.")
