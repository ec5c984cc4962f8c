"""Text-to-image pipelines of diffusers that are none of ours, so that others' models are drawn and judged alike.

    commonart sample "a red circle" --model common-canvas/CommonCanvas-S-C -o out.png
    commonart sample "赤い円" --model rinna/japanese-stable-diffusion --allow-pickle -o out.png

They keep their own scheduler. Noise comes from each picture's own seed, as with our models. What judges pictures
afterwards (a safety checker) is neither downloaded nor run: whoever publishes pictures looks at them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.generation.components import PipelineComponents
from commonart.core.generation.pipeline import Job
from commonart.core.log import warn
from commonart.core.model import memory
from commonart.core.model.autoencoder import TILE_ABOVE
from commonart.core.model.device import pick_device, pick_dtype
from commonart.core.registry import lookup

# Published before diffusers had a class for it; the class differs in its tokenizer alone, which the index names.
ALIASES = {"JapaneseStableDiffusionPipeline": "StableDiffusionPipeline"}
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")


@dataclass(slots=True)
class DiffusersPipeline:
    """Draws pictures with a pipeline of diffusers. Make one with `Foreign.open`."""

    parts: PipelineComponents
    device: torch.device
    dtype: torch.dtype
    size: int
    multiple: int
    cls: Any
    pipe: Any = None
    quantize: str | None = None  # its parts stay as they are

    @classmethod
    def open(cls, parts: PipelineComponents, *, device: str = "auto", precision: str = "auto") -> DiffusersPipeline:
        """Read the configurations; weights are loaded with the first picture.

        Raises CommonArtError for a pipeline that diffusers has not got, or that draws no picture from a text alone.
        """
        folder, where = parts.transformer, pick_device(device)
        vae = lookup.read_json(folder / "vae" / "config.json")
        net = lookup.read_json(folder / "unet" / "config.json") or lookup.read_json(
            folder / "transformer" / "config.json"
        )
        factor = 2 ** (len(vae.get("block_out_channels", [0] * 4)) - 1)
        side = net.get("sample_size") or 64
        return cls(
            parts=parts,
            device=where,
            dtype=pick_dtype(precision, where),
            size=(side if isinstance(side, int) else max(side)) * factor,
            multiple=factor * int(net.get("patch_size") or 1),
            cls=_class(parts),
        )

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
        """As `Pipeline.draw`; raises UsageError for what only our own sampler does."""
        refuse_ours(self.parts, {"--sampler": sampler != "dpm++", "--interval": interval != (0.0, 1.0)})
        known = inspect.signature(self.cls.__call__).parameters
        if rescale and "guidance_rescale" not in known:
            raise UsageError(f"--rescale is unknown to a {self.parts.pipeline}.", "Leave it out.")
        width, height = size or (self.size, self.size)
        pipe = self.loaded()
        if max(width, height) > TILE_ABOVE:
            with suppress(AttributeError):  # an autoencoder of another kind has no tiles
                pipe.vae.enable_tiling()
        for start in range(0, len(jobs), batch):
            part = jobs[start : start + batch]
            self._warn_of_cuts([job.prompt for job in part])
            more: dict[str, Any] = {"guidance_rescale": rescale} if rescale else {}
            if "callback_on_step_end" in known:
                more["callback_on_step_end"] = lambda pipe, number, time, values: (step(number), values)[1]
            if "negative_prompt" in known:
                more["negative_prompt"] = [job.negative for job in part]
            images = pipe(
                prompt=[job.prompt for job in part],
                num_inference_steps=steps,
                guidance_scale=guidance,
                width=width,
                height=height,
                generator=[torch.Generator("cpu").manual_seed(job.seed) for job in part],
                **more,
            ).images
            tick(len(part))
            yield from enumerate((image.convert("RGB") for image in images), start)

    def loaded(self) -> Any:
        """The pipeline on its device; part by part where it does not fit there as a whole."""
        if self.pipe is not None:
            return self.pipe
        folder = self.parts.transformer
        taken = inspect.signature(self.cls.__init__).parameters
        left_out: dict[str, Any] = {name: None for name in LEFT_OUT if name in taken}
        if "requires_safety_checker" in taken:
            left_out["requires_safety_checker"] = False
        try:
            self.pipe = self.cls.from_pretrained(
                folder, torch_dtype=self.dtype, use_safetensors=True, local_files_only=True, **left_out
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise CommonArtError(
                f"The {self.parts.pipeline} in {folder} cannot be loaded: {reason}.",
                "It must be complete, in safetensors; download it again.",
            ) from error
        self.pipe.set_progress_bar_config(disable=True)
        weights = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        if self.device.type == "cuda" and weights > memory.free(self.device) * memory.SPARE:
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


def _class(parts: PipelineComponents) -> Any:
    import diffusers

    found = getattr(diffusers, ALIASES.get(parts.pipeline, parts.pipeline), None)
    if found is None:
        raise CommonArtError(
            f"{parts.name} is a {parts.pipeline}, which diffusers {diffusers.__version__} has not got.",
            "Code from a repository is not run; name another model.",
        )
    asked = inspect.signature(found.__call__).parameters
    given = ("self", "prompt")
    needed = [n for n, p in asked.items() if p.default is p.empty and p.kind != p.VAR_KEYWORD and n not in given]
    if "prompt" not in asked or needed or "num_frames" in asked or {"image", "audio_length_in_s"} & set(asked):
        raise CommonArtError(
            f"{parts.name} is a {parts.pipeline}, which does not draw a picture from a text alone.",
            "Name a text-to-image model.",
        )
    return found


def refuse_ours(parts: PipelineComponents, given: Mapping[str, object]) -> None:
    """Raise UsageError for the first flag that is given although only our own models know it."""
    for flag, value in given.items():
        if value:
            raise UsageError(f"{flag} is for our own models; {parts.name} is a {parts.pipeline}.", "Leave it out.")
