"""A model that stays open and writes the images that it is asked for: `commonart sample`, its prompt and `commonart serve`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from commonart.core.errors import CommonArtError
from commonart.core.generation.components import locate
from commonart.core.generation.diffusers_pipeline import DiffusersPipeline
from commonart.core.generation.outputs import PlannedImage, find_finished, is_finished
from commonart.core.generation.pipeline import Pipeline
from commonart.core.generation.request import Callback, GenerationConfig, ImageRequest, ModelSpec, pixels
from commonart.core.log import progress, say, warn
from commonart.core.model import sampler
from commonart.core.model.device import dtype_name
from commonart.core.output import c2pa, made_log, metadata, watermark
from commonart.core.output.metadata import DEFAULT_MARKS, MarkOptions
from commonart.core.output.own_key import own_key, own_key_path

ImageGenerator = Pipeline | DiffusersPipeline


def open_generator(spec: ModelSpec) -> ImageGenerator:
    """Find and open a model. Raises as `locate`, `Pipeline.open` and `DiffusersPipeline.open` do."""
    components = locate(spec)
    return (DiffusersPipeline if components.pipeline else Pipeline).open(components, spec)


def own_signature() -> tuple[str, str] | None:
    """Return the files of this installation's certificates and key; None, with a warning, where none can be made."""
    try:
        return (str(own_key()),) * 2
    except OSError as error:
        warn(
            f"images are not signed: {own_key_path()} cannot be written ({error.strerror}). "
            "Set XDG_DATA_HOME to a folder that can be, or pass --no-c2pa."
        )
        return None


@dataclass(slots=True)
class Session:
    """A model, open. Make one with `Session.open`; weights are loaded with the first image."""

    generator: ImageGenerator
    marks: MarkOptions = DEFAULT_MARKS
    chosen: dict[str, Any] = field(default_factory=dict)  # beside the model; it stands in the images' settings
    generated: int = 0  # images since it was opened (not those that were found in their files)

    @classmethod
    def open(cls, spec: ModelSpec, marks: MarkOptions = DEFAULT_MARKS) -> Session:
        """Find and open a model. Raises as `open_generator` and `core.output.c2pa.check` do."""
        if marks.log is not None:
            made_log.check(marks.log)
        marks = dataclasses.replace(
            marks, sign=marks.sign or (own_signature() if marks.synthetic and marks.c2pa else None)
        )
        if marks.sign is not None:
            c2pa.check(*marks.sign)
        beside = {name: getattr(spec, name) for name in ("text_encoder", "autoencoder", "max_tokens")}
        chosen = {name: value for name, value in beside.items() if value is not None}
        return cls(open_generator(spec), marks, chosen)

    def settings(self, config: GenerationConfig) -> dict[str, Any]:
        """Return the settings that all images of one call have in common. Raises UsageError for sizes and samplers."""
        sampler.order_of(config.sampler)
        width, height = pixels(config.size, self.generator.size, self.generator.multiple, config.aspect)
        components = self.generator.components
        kind = {"pipeline": components.pipeline} if components.pipeline else {"objective": components.objective}
        arithmetic = {"precision": dtype_name(self.generator.dtype)}
        if self.generator.quantize:
            arithmetic["quantize"] = self.generator.quantize
        return {
            "model": components.name, "revision": components.revision, "fingerprint": components.fingerprint, **kind,
            **self.chosen, **arithmetic, **config.as_settings(), "width": width, "height": height,
        }  # fmt: skip

    def generate(
        self,
        images: Sequence[PlannedImage],
        config: GenerationConfig,
        *,
        batch: int = 8,
        overwrite: bool = False,
        reopen: bool = True,
        quiet: bool = True,
        on_step: Callback = lambda number: None,
    ) -> Iterator[tuple[PlannedImage, Image.Image | None]]:
        """Yield every image that `plan` made of `settings(config)`, in order, as soon as its file is written.

        Args:
            reopen: hand out the images that were found in their files too; else None stands for each of them.
            on_step: as `Pipeline.generate` takes it.
        """
        finished = find_finished(images, overwrite=overwrite, with_settings=self.marks.settings)
        waiting = list({image.name: image for image in images if image.name not in finished}.values())
        if finished:
            count = f"{sum(image.name in finished for image in images):,} of {len(images):,} images already exist"
            say(count if waiting else f"{count}; another --seed gives others")
        for image in waiting:
            if image.path is not None:
                metadata.save_options(image.path, self._written_settings(image), self.marks.synthetic)  # or raise now
        fresh = self._generate(waiting, config, batch, quiet, on_step)
        repeated = len({image.name for image in images}) < len(images)
        repeats: dict[str, Image.Image] = {}  # those that one call shows several times and no file holds
        for image in images:
            made = None
            if image.name not in finished:
                made = next(fresh)
                if self.marks.synthetic and self.marks.watermark:
                    made = watermark.embed(made)
                finished.add(image.name)
                self.generated += 1
                self._save(made, image, overwrite)
                if image.path is None and repeated:
                    repeats[image.name] = made
            elif reopen:
                made = repeats.get(image.name) or _open(image)
            yield image, made

    def signed(self, data: bytes, kind: str) -> bytes:
        """Return an image file's bytes, signed where these marks say so. Raises as `core.output.c2pa.sign` does."""
        return c2pa.sign(data, kind, *self.marks.sign) if self.marks.sign else data

    def _written_settings(self, image: PlannedImage) -> dict[str, Any] | None:
        return image.settings if self.marks.settings else None

    def _save(self, made: Image.Image, image: PlannedImage, overwrite: bool) -> None:
        if image.path is None:
            return
        marked, settings = self.marks.synthetic, self._written_settings(image)

        def finish(data: bytes, kind: str) -> bytes:
            data = self.signed(data, kind)
            if self.marks.log is not None:  # before the file has its name: a killed run leaves none that is not logged
                made_log.append(self.marks.log, data, image.settings, private=settings is None)
            return data

        try:  # `find_finished` has cleaned the folder
            metadata.save(
                made, image.path, settings=settings, marked=marked, overwrite=overwrite, finish=finish, cleaned=True
            )
        except CommonArtError:
            # Another process may have made the very same image in the meantime.
            if overwrite or not is_finished(image, self.marks.settings):
                raise

    def _generate(
        self, images: Sequence[PlannedImage], config: GenerationConfig, batch: int, quiet: bool, on_step: Callback
    ) -> Iterator[Image.Image]:
        """Yield the pixels of `images`, in batches that shrink where the device's memory runs out."""
        requests = [ImageRequest(image.settings["prompt"], image.settings["seed"]) for image in images]
        device = self.generator.device
        done = 0
        with progress("sample", total=len(requests), unit=" images", quiet=quiet or not requests) as tick:
            while done < len(requests):
                try:
                    rest = requests[done:]
                    for made in self.generator.generate(rest, config, batch=batch, on_batch=tick, on_step=on_step):
                        yield made
                        done += 1
                    return
                except torch.OutOfMemoryError:
                    if batch == 1:
                        width, height = (images[done].settings[side] for side in ("width", "height"))
                        raise CommonArtError(
                            f"An image of {width}x{height} does not fit into the memory of {device}.",
                            "Choose a smaller --size, or add --device cpu.",
                        ) from None
                    batch //= 2
                    warn(f"out of memory: going on with batches of {batch}")
                if device.type == "cuda":  # outside `except`: the traceback kept the tensors alive
                    torch.cuda.empty_cache()


def _open(image: PlannedImage) -> Image.Image:
    with Image.open(str(image.path)) as file:
        return file.convert("RGB")
