"""Text-to-image pipelines of diffusers that are not ours, so that others' models are sampled and scored alike.

They keep their own scheduler. Noise comes from each image's own seed, as with our models. What classifies images
afterwards (a safety checker) is neither downloaded nor run: whoever publishes images looks at them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from commonart.core.errors import CommonArtError, UsageError, first_line
from commonart.core.generation.components import PipelineComponents
from commonart.core.generation.request import Callback, GenerationConfig, ImageRequest, ModelSpec, pixels
from commonart.core.log import warn
from commonart.core.model import memory, weights
from commonart.core.model.autoencoder import TILE_ABOVE
from commonart.core.model.device import pick_device, pick_dtype
from commonart.core.registry import lookup

# rinna's class (github.com/rinnakk/japanese-stable-diffusion, 2022) differs in its tokenizer alone: sentencepiece, as the
# index says, over 77 tokens at most, of text in lower case. Today's T5Tokenizer has no such switch.
JAPANESE = "JapaneseStableDiffusionPipeline"
ALIASES = {JAPANESE: "StableDiffusionPipeline"}
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")


@dataclass(slots=True)
class DiffusersPipeline:
    """Generates images with a pipeline of diffusers. Make one with `DiffusersPipeline.open`."""

    components: PipelineComponents
    device: torch.device
    dtype: torch.dtype
    size: int
    multiple: int
    cls: Any
    pipe: Any = None
    quantize: str | None = None  # its components stay as they are

    @classmethod
    def open(cls, components: PipelineComponents, spec: ModelSpec) -> DiffusersPipeline:
        """Read the configurations; weights are loaded with the first image.

        Raises:
            UsageError: the spec sets what only our own models know.
            CommonArtError: diffusers lacks the pipeline, or it needs more than a text.
        """
        refuse_ours(
            components, {"--quantize": spec.quantize, "--max-tokens": spec.max_tokens, "--compile": spec.compiled}
        )
        folder, device = components.transformer, pick_device(spec.device)
        vae, unet, dit = (lookup.read_json(folder / name / "config.json") for name in ("vae", "unet", "transformer"))
        net = unet or dit
        factor = 2 ** (len(vae.get("block_out_channels", [0] * 4)) - 1)
        side = net.get("sample_size") or 64
        size = (side if isinstance(side, int) else max(side)) * factor
        multiple = factor * int(net.get("patch_size") or 1)
        return cls(components, device, pick_dtype(spec.precision, device), size, multiple, _class(components))

    def generate(
        self,
        requests: Sequence[ImageRequest],
        config: GenerationConfig,
        *,
        batch: int = 8,
        on_batch: Callback = lambda count: None,
        on_step: Callback = lambda number: None,
    ) -> Iterator[Image.Image]:
        """Yield the images, as `Pipeline.generate` does. Raises UsageError as `check` does."""
        self.check(config)
        known = inspect.signature(self.cls.__call__).parameters
        width, height = pixels(config.size, self.size, self.multiple, config.aspect)
        pipe = self.loaded()
        if max(width, height) > TILE_ABOVE:
            with suppress(AttributeError):  # an autoencoder of another kind has no tiles
                pipe.vae.enable_tiling()
        for start in range(0, len(requests), batch):
            part = requests[start : start + batch]
            prompts = [self._text(request.prompt) for request in part]
            self._warn_of_cuts(prompts)
            more: dict[str, Any] = {"guidance_rescale": config.rescale} if config.rescale else {}
            if "callback_on_step_end" in known:
                more["callback_on_step_end"] = lambda pipe, number, time, values: (on_step(number), values)[1]
            if "negative_prompt" in known:
                more["negative_prompt"] = [self._text(config.negative)] * len(part)
            images = pipe(
                prompt=prompts,
                num_inference_steps=config.steps,
                guidance_scale=config.guidance,
                width=width,
                height=height,
                generator=[torch.Generator("cpu").manual_seed(request.seed) for request in part],
                **more,
            ).images
            on_batch(len(part))
            yield from (image.convert("RGB") for image in images)

    def check(self, config: GenerationConfig) -> None:
        """Raise UsageError for what only our own sampler does, or what the pipeline's class does not do."""
        ours = {"--sampler": config.sampler != "dpm++", "--interval": config.interval != (0.0, 1.0)}
        refuse_ours(self.components, ours)
        if config.rescale and "guidance_rescale" not in inspect.signature(self.cls.__call__).parameters:
            raise UsageError(f"A {self.components.pipeline} does not support --rescale.", "Leave it out.")

    def defaults(self) -> tuple[int, float]:
        """Return the pipeline's own number of steps and guidance, which its authors' figures were made with."""
        known = inspect.signature(self.cls.__call__).parameters
        return int(known["num_inference_steps"].default), float(known["guidance_scale"].default)

    def _text(self, prompt: str) -> str:
        return prompt.lower() if self.components.pipeline == JAPANESE else prompt

    def loaded(self) -> Any:
        """Return the pipeline on its device; component by component where it does not fit there as a whole."""
        if self.pipe is not None:
            return self.pipe
        folder = self.components.transformer
        parameters = inspect.signature(self.cls.__init__).parameters
        left_out: dict[str, Any] = {name: None for name in LEFT_OUT if name in parameters}
        if "requires_safety_checker" in parameters:
            left_out["requires_safety_checker"] = False
        variants = (weights.variant(part, stem) for part in folder.iterdir() for stem in ("model", weights.STEM))
        try:
            variant = next(filter(None, variants), None)
            options = {"torch_dtype": self.dtype, "use_safetensors": True, "local_files_only": True, **left_out}
            self.pipe = self.cls.from_pretrained(folder, variant=variant, **options)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
            raise CommonArtError(
                f"The {self.components.pipeline} in {folder} cannot be loaded: {first_line(error)}.",
                "It must be complete, in safetensors; download it again.",
            ) from error
        self.pipe.set_progress_bar_config(disable=True)
        size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        if self.device.type == "cuda" and size > memory.free(self.device) * memory.SPARE:
            self.pipe.enable_model_cpu_offload(device=self.device)
        else:
            self.pipe.to(self.device)
        # Pipelines pad to the tokenizer's length, which some repositories leave out: T5's default is longer than CLIP's.
        positions = getattr(getattr(self.pipe, "text_encoder", None), "config", None)
        longest = getattr(positions, "max_position_embeddings", None)
        if longest and self.pipe.tokenizer.model_max_length > longest:
            self.pipe.tokenizer.model_max_length = longest
        return self.pipe

    def _warn_of_cuts(self, prompts: Sequence[str]) -> None:
        tokenizer: Any = getattr(self.pipe, "tokenizer", None)
        if tokenizer is None:
            return
        limit = tokenizer.model_max_length
        for prompt in prompts:
            ids = tokenizer(prompt)["input_ids"]
            if len(ids) > limit:
                kept = tokenizer.decode(ids[: limit - 1], skip_special_tokens=True)
                warn(f"a prompt of {len(prompt):,} characters was cut at {limit} tokens; kept: …{kept[-60:]}")


def _class(components: PipelineComponents) -> Any:
    import diffusers

    pipeline = getattr(diffusers, ALIASES.get(components.pipeline, components.pipeline), None)
    if pipeline is None:
        raise CommonArtError(
            f"{components.name} is a {components.pipeline}, which diffusers {diffusers.__version__} does not have.",
            "Code from a repository is not run; name another model.",
        )
    parameters = inspect.signature(pipeline.__call__).parameters
    needed = {name for name, p in parameters.items() if p.default is p.empty and p.kind != p.VAR_KEYWORD}
    others = {"image", "num_frames", "audio_length_in_s"} & parameters.keys()
    if "prompt" not in parameters or needed - {"self", "prompt"} or others:
        raise CommonArtError(
            f"{components.name} is a {components.pipeline}, which needs more than a text to make an image.",
            "Name a text-to-image model.",
        )
    return pipeline


def refuse_ours(components: PipelineComponents, options: Mapping[str, object]) -> None:
    """Raise UsageError for the first option that is set although only our own models know it."""
    for flag, value in options.items():
        if value:
            raise UsageError(
                f"{flag} is for our own models; {components.name} is a {components.pipeline}.", "Leave it out."
            )
