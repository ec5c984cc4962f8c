"""A model that stays open and draws what it is asked for, into files: `commonart sample`, its loop and its page.

studio = Studio.open("nano")
pictures = plan([Prompt("a red circle", {})], studio.shared(GenerationConfig()), seed=1, n=1, out="pictures", ending="png")
list(studio.draw(pictures, GenerationConfig()))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from PIL import Image

from commonart.core.errors import CommonArtError
from commonart.core.generation.components import locate
from commonart.core.generation.generator import ImageGenerator, open_generator
from commonart.core.generation.pipeline import Job
from commonart.core.generation.request import GenerationConfig, Picture, already_drawn, is_there, pixels
from commonart.core.log import progress, say, warn
from commonart.core.model import sampler
from commonart.core.model.device import dtype_name
from commonart.core.output import c2pa
from commonart.core.output import metadata as provenance


@dataclass(slots=True)
class Session:
    """A model, open. Make one with `Studio.open`; weights are loaded with the first picture.

    Attributes:
        metadata, marked: what is written into each file: the settings, the mark of synthetic media.
        sign: files of a certificate chain and its key, for C2PA.
        chosen: what was named beside the model and changes its pictures; it stands in their settings.
        drawn: pictures that were drawn since it was opened (not those that were found in their files).
    """

    engine: ImageGenerator
    metadata: bool = True
    marked: bool = True
    sign: tuple[str, str] | None = None
    chosen: dict[str, Any] = field(default_factory=dict)
    drawn: int = 0

    @classmethod
    def open(
        cls,
        model: str,
        *,
        text_encoder: str | None = None,
        autoencoder: str | None = None,
        accept_terms: Sequence[str] = (),
        allow_pickle: bool = False,
        device: str = "auto",
        precision: str = "auto",
        quantize: str | None = None,
        max_tokens: int | None = None,
        compiled: bool = False,
        no_metadata: bool = False,
        unmarked: bool = False,
        sign: tuple[str, str] | None = None,
    ) -> Session:
        """Find and open a model; arguments as `locate` and `open_generator` take them, errors as they raise them."""
        if sign is not None:
            c2pa.check(*sign)
        parts = locate(
            model,
            text_encoder=text_encoder,
            autoencoder=autoencoder,
            accept_terms=accept_terms,
            allow_pickle=allow_pickle,
        )
        engine = open_generator(
            parts, device=device, precision=precision, quantize=quantize, max_tokens=max_tokens, compiled=compiled
        )
        beside = {"text_encoder": text_encoder, "autoencoder": autoencoder, "max_tokens": max_tokens}
        chosen = {name: value for name, value in beside.items() if value is not None}
        return cls(engine, not no_metadata, not unmarked, sign, chosen)

    def shared(self, how: GenerationConfig) -> dict[str, Any]:
        """The settings that all pictures of one call have in common. Raises UsageError for sizes and samplers."""
        sampler.order_of(how.sampler)
        width, height = pixels(how.size, self.engine.size, self.engine.multiple, how.aspect)
        parts = self.engine.parts
        kind = {"pipeline": parts.pipeline} if parts.pipeline else {"objective": parts.objective}
        arithmetic = {"precision": dtype_name(self.engine.dtype)}
        if self.engine.quantize not in (None, "none"):
            arithmetic["quantize"] = str(self.engine.quantize)
        return {
            "model": parts.name, "revision": parts.revision, **kind, **self.chosen, **arithmetic, **how.said(),
            "width": width, "height": height,
        }  # fmt: skip

    def draw(
        self,
        pictures: Sequence[Picture],
        how: GenerationConfig,
        *,
        batch: int = 8,
        overwrite: bool = False,
        images: bool = True,
        quiet: bool = True,
        step: Callable[[int], Any] = lambda number: None,
    ) -> Iterator[tuple[Picture, Image.Image | None]]:
        """Yield every picture that `plan` made of `shared(how)`, in order, as soon as its file is written.

        Args:
            images: hand out the images too; without, one that was found in its file is not opened again.
            step: called with the number of each step of each batch; what it raises stops the drawing.
        """
        there = already_drawn(pictures, overwrite, metadata=self.metadata)
        waiting = list({p.name: p for p in pictures if p.name not in there}.values())
        if there:
            known = f"{sum(p.name in there for p in pictures):,} of {len(pictures):,} pictures are there already"
            say(known if waiting else f"{known}; another --seed draws others")
        for picture in waiting:
            if picture.path is not None:
                provenance.check_room(picture.path, picture.settings if self.metadata else None, self.marked)
        fresh = self._draw(waiting, how, batch, quiet, step)
        again = {p.name for p in pictures} if len({p.name for p in pictures}) < len(pictures) else set()
        kept: dict[str, Image.Image] = {}  # those that one call shows several times and no file holds
        for picture in pictures:
            image = None
            if picture.name not in there:
                image = next(fresh)
                there.add(picture.name)
                self.drawn += 1
                self._save(image, picture, overwrite)
                if picture.path is None and picture.name in again:
                    kept[picture.name] = image
            elif images:
                image = kept.get(picture.name) or _open(picture)
            yield picture, image

    def _save(self, image: Image.Image, picture: Picture, overwrite: bool) -> None:
        if picture.path is None:
            return
        finish = partial(c2pa.sign, chain=self.sign[0], key=self.sign[1]) if self.sign else None
        try:
            provenance.save(
                image,
                picture.path,
                settings=picture.settings if self.metadata else None,
                marked=self.marked,
                overwrite=overwrite,
                finish=finish,
                cleaned=True,  # by `already_drawn`
            )
        except CommonArtError:
            if overwrite or not is_there(picture, self.metadata):  # else another process has drawn the very same
                raise

    def _draw(
        self, pictures: Sequence[Picture], how: GenerationConfig, batch: int, quiet: bool, step: Callable[[int], Any]
    ) -> Iterator[Image.Image]:
        """The images of `pictures`, in batches that shrink where the device's memory runs out."""
        jobs = [Job(p.settings["prompt"], p.settings["seed"], p.settings["negative"]) for p in pictures]
        done = 0
        with progress("sample", total=len(jobs), unit=" images", quiet=quiet or not jobs) as tick:
            while done < len(jobs):
                size = (pictures[done].settings["width"], pictures[done].settings["height"])
                try:
                    rest = jobs[done:]
                    for _, image in self.engine.draw(
                        rest, size=size, batch=batch, tick=tick, step=step, **how.drawing()
                    ):
                        yield image
                        done += 1
                    return
                except torch.OutOfMemoryError:
                    if batch == 1:
                        raise CommonArtError(
                            f"a picture of {size[0]}x{size[1]} does not fit into the memory of {self.engine.device}.",
                            "Draw a smaller one with --size, or add --device cpu.",
                        ) from None
                    batch = max(1, batch // 2)
                    warn(f"out of memory: going on with batches of {batch}")
                if self.engine.device.type == "cuda":  # outside `except`: the traceback kept the tensors alive
                    torch.cuda.empty_cache()


def _open(picture: Picture) -> Image.Image:
    with Image.open(str(picture.path)) as image:
        return image.convert("RGB")
