"""Pictures from prompts, with one part of the model in memory at a time.

    commonart sample "赤い円" --model nano

A `Pipeline` is made of the `Parts` that `core.model.parts.locate` finds. Texts are encoded first, then all
latents are drawn, then decoded, so a model whose text encoder is larger than the rest still fits.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from commonart.core import registry
from commonart.core.errors import CommonArtError
from commonart.core.log import warn
from commonart.core.model import sampler
from commonart.core.model.autoencoder import Autoencoder, to_images
from commonart.core.model.config import PixArtConfig
from commonart.core.model.device import pick_device, pick_dtype
from commonart.core.model.parts import Parts
from commonart.core.model.quantize import settle
from commonart.core.model.text_encoder import TextEncoder
from commonart.core.model.transformer import PixArt

SMALL = 512 * 1024**2  # bytes of weights; a model below stays loaded between its parts and chunks
CHUNK = 1000  # pictures whose texts and latents wait in memory together: about 0.6 GB for CALM2-7B at 512 px


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
        keep: parts stay loaded; else each is freed before the next is loaded, so that the largest sets the peak.
    """

    parts: Parts
    device: torch.device
    precision: str
    dtype: torch.dtype
    quantize: str | None
    max_tokens: int
    keep: bool
    config: PixArtConfig
    factor: int
    cut: dict[str, str] = field(default_factory=dict)  # prompt -> what was kept of it
    _loaded: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        parts: Parts,
        *,
        device: str = "auto",
        precision: str = "auto",
        quantize: str | None = None,
        max_tokens: int | None = None,
        keep: bool | None = None,
    ) -> Pipeline:
        """Read the configurations; weights are loaded when they are needed.

        Args:
            precision: of the transformer; the text encoder takes the one that it had in training, where a run says so.
            quantize: of the text encoder, as `TextEncoder.load` takes it.
            max_tokens: of a prompt; default: as in training.
            keep: see above; default: when all weights together are small.

        Raises:
            CommonArtError: a part is missing, or the parts do not fit each other.
        """
        where = pick_device(device)
        config = PixArtConfig.read(parts.transformer / "config.json")
        vae = registry.read_json(registry.part(parts.autoencoder, "autoencoder") / "config.json")
        factor = 2 ** (len(vae.get("block_out_channels", [0] * 4)) - 1)
        if int(vae.get("latent_channels", 4)) != config.in_channels:
            raise CommonArtError(
                f"{parts.autoencoder}: this autoencoder has {vae.get('latent_channels')} latent channels, "
                f"the transformer of {parts.name} takes {config.in_channels}.",
                "Name the one that it was trained with: --autoencoder NAME.",
            )
        folders = {parts.transformer, parts.text_encoder, parts.autoencoder}
        weights = {file for folder in folders for file in folder.rglob("*.safetensors")}
        small = sum(file.stat().st_size for file in weights) < SMALL
        quantize, _ = settle(parts.text_precision, quantize, parts.name)
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
                quantize=self.quantize,
                device=self.device,
                max_tokens=self.max_tokens,
            )

        return self._part("text_encoder", load)

    def transformer(self) -> PixArt:
        """The transformer, loaded, without gradients."""

        def load() -> PixArt:
            model = PixArt.load(self.parts.transformer, dtype=self.dtype, device=self.device)
            return model.eval().requires_grad_(False)

        return self._part("transformer", load)

    def autoencoder(self) -> Autoencoder:
        """The autoencoder, loaded."""
        return self._part("autoencoder", lambda: Autoencoder.load(self.parts.autoencoder, device=self.device))

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
        tick: Callable[[int], Any] = lambda n: None,
    ) -> Iterator[tuple[int, Image.Image]]:
        """Yield (number of the job, its picture), in order.

        Args:
            size: width and height in pixels, multiples of `multiple`; default: the model's own.
            tick: called with the number of pictures after each batch of the transformer.
        """
        width, height = size or (self.size, self.size)
        shape = (self.config.in_channels, height // self.factor, width // self.factor)
        for start in range(0, len(jobs), CHUNK):
            chunk = jobs[start : start + CHUNK]
            texts = self.encode([text for job in chunk for text in (job.prompt, job.negative)])
            self._release("text_encoder")
            latents = self._latents(chunk, texts, shape, steps, guidance, batch, tick)
            self._release("transformer")
            for number, latent in enumerate(latents):
                # One by one: decoding in batches gains little, and its peak of memory is the largest of all.
                yield start + number, to_images(self.autoencoder().decode(latent[None]))[0]
            self._release("autoencoder")

    def _latents(
        self,
        jobs: Sequence[Job],
        texts: dict[str, Tensor],
        shape: tuple[int, int, int],
        steps: int,
        guidance: float,
        batch: int,
        tick: Callable[[int], Any],
    ) -> list[Tensor]:
        model = self.transformer()
        # One null text for each batch: jobs with another negative prompt are drawn in a batch of their own.
        order = sorted(range(len(jobs)), key=lambda i: jobs[i].negative)
        done: dict[int, Tensor] = {}
        while order:
            negative = jobs[order[0]].negative
            part = [i for i in order[:batch] if jobs[i].negative == negative]
            order = order[len(part) :]
            drawn = sampler.sample(
                model,
                sampler.noise_for([jobs[i].seed for i in part], shape, self.device),
                [texts[jobs[i].prompt] for i in part],
                texts[negative],
                steps,
                guidance,
                self.parts.objective,
                shift=self.parts.shift,
            )
            done.update(zip(part, drawn.cpu(), strict=True))
            tick(len(part))
        return [done[i] for i in range(len(jobs))]

    def _part(self, name: str, load: Callable[[], Any]) -> Any:
        if name not in self._loaded:
            self._loaded[name] = load()
        return self._loaded[name]

    def _release(self, name: str) -> None:
        if self.keep:
            return
        self._loaded.pop(name, None)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
