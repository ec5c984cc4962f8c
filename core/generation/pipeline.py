"""Pictures from prompts, with one part of the model in memory at a time.

    commonart sample "赤い円" --model nano

A `Pipeline` is made of the `PipelineComponents` that `core.generation.components.locate` finds. Texts are encoded first
and the text encoder is freed, so a model whose text encoder is larger than the rest still fits; then each batch is drawn and
decoded, so that what is interrupted has lost one batch.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from commonart.core.errors import CommonArtError
from commonart.core.generation.components import PipelineComponents
from commonart.core.log import warn
from commonart.core.model import memory
from commonart.core.model import sampler as samplers
from commonart.core.model.autoencoder import Autoencoder, to_images
from commonart.core.model.config import PixArtConfig
from commonart.core.model.device import pick_device, pick_dtype
from commonart.core.model.onednn import pack
from commonart.core.model.quantize import resolve_precision
from commonart.core.model.text_encoder import TextEncoder
from commonart.core.model.transformer import PixArt
from commonart.core.registry import lookup

SMALL = 512 * 1024**2  # bytes of weights; a model below stays loaded, as does one for which there is ample room
CHUNK = 1000  # pictures whose texts wait in memory together: about 0.6 GB for CALM2-7B


@dataclass(frozen=True, slots=True)
class Job:
    """One picture: the same job gives the same picture, in whatever batch and order it is drawn."""

    prompt: str
    seed: int
    negative: str = ""


@dataclass(slots=True)
class Pipeline:
    """Draws pictures with the parts of one model. Make one with `Pipeline.open`.

    Attributes:
        factor: pixels for each latent along a side.
        multiple: pixels; a picture's sides must be multiples of it (the autoencoder's factor times the patch).
        size: pixels on a side that the model was trained for.
        keep: parts stay loaded; else the text encoder is freed before the rest is loaded, and the other way round.
        quantize: of the text encoder; where nobody chose, what fits into the memory that is free.
    """

    parts: PipelineComponents
    device: torch.device
    precision: str
    dtype: torch.dtype
    quantize: str | None
    max_tokens: int
    keep: bool
    config: PixArtConfig
    factor: int
    compiled: bool = False  # the transformer goes through torch.compile
    cut: dict[str, str] = field(default_factory=dict)  # prompt -> what was kept of it
    _loaded: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        parts: PipelineComponents,
        *,
        device: str = "auto",
        precision: str = "auto",
        quantize: str | None = None,
        max_tokens: int | None = None,
        compiled: bool = False,
        keep: bool | None = None,
    ) -> Pipeline:
        """Read the configurations; weights are loaded when they are needed.

        Args:
            precision: of the transformer; the text encoder takes the one that it had in training, where a run says so.
            quantize: of the text encoder, as `TextEncoder.load` takes it; "none" for none. Default: as in training,
                where a run says so, else the least that fits into memory, which is said.
            max_tokens: of a prompt; default: as in training.
            compiled: run the transformer through torch.compile: minutes beforehand, less for each picture.
            keep: see above; default: when all weights together are small, or there is room for all of them and more.

        Raises:
            CommonArtError: a part is missing, or the parts do not fit each other.
        """
        if parts.pipeline:
            raise CommonArtError(
                f"{parts.name} is a {parts.pipeline}, which has no PixArt transformer.",
                "Only `commonart sample` and `commonart eval` run it; name a model of ours here.",
            )
        where = pick_device(device)
        config = PixArtConfig.read(parts.transformer / "config.json")
        vae = lookup.read_json(lookup.component_dir(parts.autoencoder, "autoencoder") / "config.json")
        try:
            factor = 2 ** (len(vae.get("block_out_channels", [0] * 4)) - 1)
            channels = int(vae.get("latent_channels", 4))
        except (TypeError, ValueError) as error:
            raise CommonArtError(
                f"The autoencoder's config.json in {parts.autoencoder} is damaged: {error}.", "Download it again."
            ) from error
        if channels != config.in_channels:
            raise CommonArtError(
                f"{parts.autoencoder}: this autoencoder has {vae.get('latent_channels')} latent channels, "
                f"the transformer of {parts.name} takes {config.in_channels}.",
                "Name the one that it was trained with: --autoencoder NAME.",
            )
        folders = {parts.transformer, parts.text_encoder, parts.autoencoder}
        weights = {file for folder in folders for file in folder.rglob("*.safetensors")}
        total = sum(file.stat().st_size for file in weights)
        small = total < SMALL or 1.5 * total < memory.free(where)
        if quantize is None and not parts.text_precision:
            quantize = memory.fitting(parts.text_encoder, pick_dtype(precision, where), where)
        quantize, _ = resolve_precision(parts.text_precision, None if quantize == "none" else quantize, parts.name)
        return cls(
            parts=parts,
            device=where,
            precision=precision,
            dtype=pick_dtype(precision, where),
            quantize=quantize,
            max_tokens=max_tokens or parts.max_tokens,
            keep=small if keep is None else keep,
            config=config,
            factor=factor,
            compiled=compiled,
        )

    @property
    def size(self) -> int:
        return self.config.sample_size * self.factor

    @property
    def multiple(self) -> int:
        return self.factor * self.config.patch_size

    def text_encoder(self) -> TextEncoder:
        """The text encoder, loaded."""

        def load() -> TextEncoder:
            precision = self.parts.text_precision.rpartition("/")[2] or self.precision
            return TextEncoder.load(
                self.parts.text_encoder,
                dtype=precision,
                quantize=None if self.quantize == "none" else self.quantize,
                device=self.device,
                max_tokens=self.max_tokens,
            )

        return self._part("text_encoder", load)

    def transformer(self) -> PixArt:
        """The transformer, loaded, without gradients."""

        def load() -> PixArt:
            model = PixArt.load(self.parts.transformer, dtype=self.dtype, device=self.device)
            model.eval().requires_grad_(False)
            return torch.compile(model) if self.compiled else pack(model)  # type: ignore[return-value]

        return self._part("transformer", load)

    def autoencoder(self) -> Autoencoder:
        """The autoencoder, loaded."""
        # bfloat16 has float32's range, so SDXL's autoencoder survives it, unlike float16, in half the time; it moves
        # a channel by 0.3 of 255 on average (measured on the nano one).
        dtype = self.dtype if self.dtype == torch.bfloat16 else "auto"
        return self._part(
            "autoencoder", lambda: decoder(Autoencoder.load(self.parts.autoencoder, dtype, device=self.device))
        )

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Each different prompt's states [L, D] on the CPU; "" has those of no text. What was cut is in `cut`."""
        encoder = self.text_encoder()
        if encoder.width != self.config.caption_channels:
            raise CommonArtError(
                f"{self.parts.text_encoder}: this text encoder is {encoder.width} wide, "
                f"the transformer of {self.parts.name} takes {self.config.caption_channels}.",
                "Name the one that it was trained with: --text-encoder NAME.",
            )
        unique = [prompt for prompt in dict.fromkeys(prompts) if prompt.strip()]
        ids, cut = encoder.tokenize(unique)
        for prompt, tokens, was_cut in zip(unique, ids, cut, strict=True):
            if was_cut and prompt not in self.cut:
                self.cut[prompt] = kept = encoder.tokenizer.decode(tokens, skip_special_tokens=True)
                warn(
                    f"a prompt of {len(prompt):,} characters was cut at {self.max_tokens} tokens; "
                    f"kept: {kept[:60]}…{kept[-30:]}"
                )
        states = encoder.encode_ids(ids)
        texts = {prompt: s.cpu() for prompt, s in zip(unique, states, strict=True)}
        null = encoder.null().cpu()
        return texts | {prompt: null for prompt in ["", *prompts] if not prompt.strip()}

    def draw(
        self,
        jobs: Sequence[Job],
        *,
        size: tuple[int, int] | None = None,
        steps: int = 20,
        guidance: float = 4.5,
        batch: int = 8,
        sampler: str = "dpm++",
        interval: tuple[float, float] = (0.0, 1.0),
        rescale: float = 0.0,
        tick: Callable[[int], Any] = lambda n: None,
        step: Callable[[int], Any] = lambda number: None,
    ) -> Iterator[tuple[int, Image.Image]]:
        """Yield (number of the job, its picture), in order, each batch as soon as it is drawn.

        Args:
            size: width and height in pixels, multiples of `multiple`; default: the model's own.
            sampler, interval, rescale: as `core.model.sampler.sample` takes them.
            tick: called with the number of pictures after each batch of the transformer.
            step: called with the number of each step, from 0, of each batch; what it raises stops the drawing.
        """
        width, height = size or (self.size, self.size)
        shape = (self.config.in_channels, height // self.factor, width // self.factor)
        for start in range(0, len(jobs), CHUNK):
            chunk = jobs[start : start + CHUNK]
            texts = self.encode([text for job in chunk for text in (job.prompt, job.negative)])
            self._release("text_encoder")
            try:
                for first in range(0, len(chunk), batch):
                    part = chunk[first : first + batch]
                    latents = samplers.sample(
                        self.transformer(),
                        samplers.noise_for([job.seed for job in part], shape, self.device),
                        [texts[job.prompt] for job in part],
                        [texts[job.negative] for job in part],
                        steps,
                        guidance,
                        self.parts.objective,
                        shift=self.parts.shift,
                        sampler=sampler,
                        interval=interval,
                        rescale=rescale,
                        callback=lambda number, _: step(number),
                    )
                    if not torch.isfinite(latents).all():
                        raise CommonArtError(
                            f"{self.parts.name} draws numbers that are not finite in {self.dtype}.",
                            "Its weights are damaged, or too large for this precision: add --precision fp32.",
                        )
                    tick(len(part))
                    autoencoder = self.autoencoder()
                    autoencoder.tile_above = memory.largest_side(autoencoder, (width, height))
                    for number, latent in enumerate(latents, start + first):
                        # One by one: in batches decoding gains little, and its peak of memory is the largest of all.
                        yield number, to_images(autoencoder.decode(latent[None]))[0]
            finally:  # also where the caller has stopped: what comes next begins with the text encoder
                self._release("transformer", "autoencoder")

    def _part(self, name: str, load: Callable[[], Any]) -> Any:
        if name not in self._loaded:
            self._loaded[name] = load()
        return self._loaded[name]

    def _release(self, *names: str) -> None:
        if self.keep:
            return
        for name in names:
            self._loaded.pop(name, None)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def decoder(autoencoder: Autoencoder) -> Autoencoder:
    """The same autoencoder with its channels last in memory, in which convolutions are faster, on CPU and GPU."""
    autoencoder.model.to(memory_format=torch.channels_last)
    return autoencoder
