"""Images from prompts, with one component of the model in memory at a time.

Texts are encoded first and the text encoder is freed, so a model whose text encoder is larger than the rest still fits;
then each batch is generated and decoded, so that what is interrupted has lost one batch.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from commonart.core.errors import CommonArtError
from commonart.core.generation.components import PipelineComponents
from commonart.core.generation.request import Callback, GenerationConfig, ImageRequest, ModelSpec, pixels
from commonart.core.log import warn
from commonart.core.model import memory
from commonart.core.model import sampler as samplers
from commonart.core.model.autoencoder import Autoencoder, to_images
from commonart.core.model.config import PixArtConfig
from commonart.core.model.device import pick_device, pick_dtype, pick_matmul_dtype
from commonart.core.model.onednn import pack
from commonart.core.model.quantize import resolve_precision
from commonart.core.model.text_encoder import TextEncoder
from commonart.core.model.transformer import PixArt
from commonart.core.registry import lookup

SMALL = 512 * 1024**2  # bytes of weights; a model below stays loaded, as does one for which there is ample room
CHUNK = 1000  # images whose texts wait in memory together: about 0.6 GB for CALM2-7B


@dataclass(slots=True)
class Pipeline:
    """Generates images with the components of one of our models. Make one with `Pipeline.open`."""

    components: PipelineComponents
    device: torch.device
    precision: str
    dtype: torch.dtype
    quantize: str | None  # of the text encoder; where nobody chose, what fits into the memory that is free
    max_tokens: int
    keep: bool  # components stay loaded; else the text encoder is freed before the rest is loaded, and vice versa
    config: PixArtConfig
    factor: int  # pixels for each latent along a side
    compiled: bool = False
    truncated: dict[str, str] = field(default_factory=dict)  # prompt -> what was kept of it
    _loaded: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, components: PipelineComponents, spec: ModelSpec, *, keep: bool | None = None) -> Pipeline:
        """Read the configurations; weights are loaded when they are needed.

        Args:
            keep: default: when all weights together are small, or there is room for all of them and more.

        Raises:
            CommonArtError: a component is missing, or the components do not fit each other.
        """
        if components.pipeline:
            raise CommonArtError(
                f"{components.name} is a {components.pipeline}, which has no PixArt transformer.",
                "Only `commonart sample`, `serve` and `eval` run it; name a model of ours here.",
            )
        device = pick_device(spec.device)
        config = PixArtConfig.read(components.transformer / "config.json")
        vae = lookup.read_json(lookup.component_dir(components.autoencoder, "autoencoder") / "config.json")
        try:
            factor = 2 ** (len(vae.get("block_out_channels", [0] * 4)) - 1)
            channels = int(vae.get("latent_channels", 4))
        except (TypeError, ValueError) as error:
            raise CommonArtError(
                f"The autoencoder's config.json in {components.autoencoder} is damaged: {error}.", "Download it again."
            ) from error
        if channels != config.in_channels:
            raise CommonArtError(
                f"{components.autoencoder}: this autoencoder has {channels} latent channels, "
                f"the transformer of {components.name} takes {config.in_channels}.",
                "Name the one that it was trained with: --autoencoder NAME.",
            )
        if keep is None:
            folders = {components.transformer, components.text_encoder, components.autoencoder}
            weights = {file for folder in folders for file in folder.rglob("*.safetensors")}
            total = sum(file.stat().st_size for file in weights)
            keep = total < SMALL or 1.5 * total < memory.free(device)
        dtype = pick_matmul_dtype(spec.precision, device)
        quantize = spec.quantize
        if quantize is None and not components.text_precision:
            quantize = memory.fitting(components.text_encoder, pick_dtype(spec.precision, device), device)
        chosen = None if quantize == "none" else quantize
        quantize, _ = resolve_precision(components.text_precision, chosen, components.name)
        tokens = spec.max_tokens or components.max_tokens
        return cls(components, device, spec.precision, dtype, quantize, tokens, keep, config, factor, spec.compiled)

    @property
    def size(self) -> int:
        """Pixels on a side that the model was trained for."""
        return self.config.sample_size * self.factor

    @property
    def multiple(self) -> int:
        """Pixels that an image's sides must be multiples of: the autoencoder's factor times the patch."""
        return self.factor * self.config.patch_size

    def text_encoder(self) -> TextEncoder:
        """Return the text encoder, loaded."""
        precision = self.components.text_precision.rpartition("/")[2] or self.precision
        load = partial(TextEncoder.load, device=self.device, max_tokens=self.max_tokens)
        return self._load("text_encoder", lambda: load(self.components.text_encoder, precision, self.quantize))

    def transformer(self) -> PixArt:
        """Return the transformer, loaded, without gradients."""

        def load() -> PixArt:
            model = PixArt.load(self.components.transformer, dtype=self.dtype, device=self.device)
            model.eval().requires_grad_(False)
            return torch.compile(model) if self.compiled else pack(model)  # type: ignore[return-value]

        return self._load("transformer", load)

    def autoencoder(self) -> Autoencoder:
        """Return the autoencoder, loaded."""
        # bfloat16 has float32's range, so SDXL's autoencoder survives it, unlike float16, in half the time; it moves
        # a channel by 0.3 of 255 on average (measured on the nano one).
        dtype = self.dtype if self.dtype == torch.bfloat16 else "auto"
        return self._load(
            "autoencoder", lambda: decoder(Autoencoder.load(self.components.autoencoder, dtype, device=self.device))
        )

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Return each different prompt's states [L, D] on the CPU; "" has those of no text."""
        encoder = self.text_encoder()
        if encoder.width != self.config.caption_channels:
            raise CommonArtError(
                f"{self.components.text_encoder}: this text encoder is {encoder.width} wide, "
                f"the transformer of {self.components.name} takes {self.config.caption_channels}.",
                "Name the one that it was trained with: --text-encoder NAME.",
            )
        unique = [prompt for prompt in dict.fromkeys(prompts) if prompt.strip()]
        ids, cut = encoder.tokenize(unique)
        for prompt, tokens, was_cut in zip(unique, ids, cut, strict=True):
            if was_cut and prompt not in self.truncated:
                self.truncated[prompt] = kept = encoder.tokenizer.decode(tokens, skip_special_tokens=True)
                ends = f"{kept[:60]}…{kept[-30:]}" if len(kept) > 90 else kept
                warn(f"a prompt of {len(prompt):,} characters was cut at {self.max_tokens} tokens; kept: {ends}")
        states = encoder.encode_ids(ids)
        texts = {prompt: s.cpu() for prompt, s in zip(unique, states, strict=True)}
        null = encoder.null().cpu()
        return texts | {prompt: null for prompt in ["", *prompts] if not prompt.strip()}

    def generate(
        self,
        requests: Sequence[ImageRequest],
        config: GenerationConfig,
        *,
        batch: int = 8,
        on_batch: Callback = lambda count: None,
        on_step: Callback = lambda number: None,
    ) -> Iterator[Image.Image]:
        """Yield the image of each request, in order, each batch as soon as it is finished.

        Args:
            on_batch: called with the number of images after each batch of the transformer.
            on_step: called with the number of each step, from 0, of each batch; what it raises stops the generation.
        """
        width, height = pixels(config.size, self.size, self.multiple, config.aspect)
        shape = (self.config.in_channels, height // self.factor, width // self.factor)
        for start in range(0, len(requests), CHUNK):
            chunk = requests[start : start + CHUNK]
            texts = self.encode([text for request in chunk for text in (request.prompt, config.negative)])
            self.release("text_encoder")
            try:
                for first in range(0, len(chunk), batch):
                    part = chunk[first : first + batch]
                    latents = samplers.sample(
                        self.transformer(),
                        samplers.noise_for([request.seed for request in part], shape, self.device),
                        [texts[request.prompt] for request in part],
                        texts[config.negative],
                        config.steps,
                        config.guidance,
                        self.components.objective,
                        shift=self.components.shift,
                        sampler=config.sampler,
                        interval=config.interval,
                        rescale=config.rescale,
                        callback=lambda number, _: on_step(number),
                    )
                    if not torch.isfinite(latents).all():
                        raise CommonArtError(
                            f"{self.components.name} computes numbers that are not finite in {self.dtype}.",
                            "Its weights are damaged, or too large for this precision: add --precision fp32.",
                        )
                    on_batch(len(part))
                    autoencoder = self.autoencoder()
                    autoencoder.tile_above = memory.largest_side(autoencoder, (width, height))
                    for latent in latents:
                        # One by one: in batches decoding gains little, and its peak of memory is the largest of all.
                        yield to_images(autoencoder.decode(latent[None]))[0]
            finally:  # also where the caller has stopped: what comes next begins with the text encoder
                self.release("transformer", "autoencoder")

    def _load(self, name: str, load: Callable[[], Any]) -> Any:
        if name not in self._loaded:
            self._loaded[name] = load()
        return self._loaded[name]

    def release(self, *names: str) -> None:
        """Free the memory of these components, where not all stay loaded."""
        if self.keep:
            return
        for name in names:
            self._loaded.pop(name, None)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def decoder(autoencoder: Autoencoder) -> Autoencoder:
    """Put the autoencoder's channels last in memory, in which convolutions are faster, on CPU and GPU; return it."""
    autoencoder.model.to(memory_format=torch.channels_last)
    return autoencoder
