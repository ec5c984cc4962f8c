"""Models that describe pictures, one adapter per family, behind one call: images in, one caption each out.

    commonart caption --model florence2,qwen2-vl raw/ -o captioned/

The embedded nano captioner is a Florence-2 and goes through the same adapter as the large one. Decoding is
deterministic (greedy, or the checkpoint's own number of beams).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from PIL import Image

from commonart.core.catalogue import Model
from commonart.core.model.captioning import generate
from commonart.core.model.captioning.generate import Loaded
from commonart.core.model.hub import Resolved, resolve
from commonart.core.registry import check_terms, find

MAX_NEW_TOKENS = 160  # a paragraph; Florence-2's longest captions have about 120

Images = Sequence[Image.Image]


class Captioner:
    """One model. `caption` is all that a stage needs; the rest is what records keep about it.

    It is loaded when it is first asked: a run whose shards are all finished never does.
    """

    def __init__(
        self,
        resolved: Resolved,
        *,
        device: str = "auto",
        precision: str = "auto",
        max_new_tokens: int = MAX_NEW_TOKENS,
        accepted: bool = False,
    ) -> None:
        generate.need_adapter(resolved, FAMILIES)
        self.resolved, self.device, self.precision = resolved, device, precision
        self.model: Model = resolved.model
        self.name, self.revision, self.license = resolved.name, resolved.revision, resolved.model.license
        self.lang = resolved.model.lang or "en"
        self.accepted = accepted  # used although refused, on the user's word
        self.max_new_tokens = max_new_tokens
        self._write = FAMILIES[resolved.model.cls]

    @cached_property
    def loaded(self) -> Loaded:
        """The model on its device. Raises CommonArtError where its files do not make one."""
        return generate.load(self.resolved, "AutoProcessor", self.device, self.precision)

    def caption(self, images: Images) -> list[str]:
        """One caption for each RGB image, in order; "" where the model wrote nothing."""
        if not images:
            return []

        def work(part: Images) -> list[str]:
            return self._write(self.loaded, part, self.model.prompt, self.max_new_tokens)

        return [generate.tidy(text) for text in generate.halving(self.loaded, images, work)]


def open_captioner(
    name: str,
    *,
    accept_terms: Sequence[str] = (),
    allow_pickle: bool = False,
    device: str = "auto",
    precision: str = "auto",
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Captioner:
    """The captioner that `--model NAME` means. Raises UsageError (unknown, refused) and CommonArtError."""
    model = find(name, "caption")
    accepted = check_terms(model, accept_terms)
    resolved = resolve(model, allow_pickle=allow_pickle)
    return Captioner(resolved, device=device, precision=precision, max_new_tokens=max_new_tokens, accepted=accepted)


def _florence2(loaded: Loaded, images: Images, prompt: str, max_new_tokens: int) -> list[str]:
    # The prompt is a task token (<CAPTION>, <MORE_DETAILED_CAPTION>), which the processor turns into its sentence.
    inputs = loaded.processor(text=[prompt] * len(images), images=list(images), return_tensors="pt", padding=True)
    written = loaded.model.generate(**loaded.to_device(inputs), do_sample=False, max_new_tokens=max_new_tokens)
    return _decoded(loaded, written)


def _blip2(loaded: Loaded, images: Images, prompt: str, max_new_tokens: int) -> list[str]:
    loaded.processor.num_query_tokens = loaded.model.config.num_query_tokens  # absent from older processor files
    inputs = loaded.processor(text=[prompt] * len(images), images=list(images), return_tensors="pt", padding=True)
    written = loaded.model.generate(**loaded.to_device(inputs), do_sample=False, max_new_tokens=max_new_tokens)
    if not loaded.model.language_model.config.is_encoder_decoder:
        written = written[:, inputs["input_ids"].shape[1] :]
    return _decoded(loaded, written)


def _chat(loaded: Loaded, images: Images, prompt: str, max_new_tokens: int) -> list[str]:
    """Qwen2-VL, Qwen2.5-VL and Qwen3-VL: a chat turn with one image and one question."""
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    asked = loaded.processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return _continued(loaded, images, asked, max_new_tokens)


def _llava(loaded: Loaded, images: Images, prompt: str, max_new_tokens: int) -> list[str]:
    # Processor files from before transformers 4.46 do not say how many tokens an image takes; the model's config does.
    config, processor = loaded.model.config, loaded.processor
    if processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        processor.num_additional_image_tokens = 1 if config.vision_config.model_type == "clip_vision_model" else 0
    return _continued(loaded, images, prompt, max_new_tokens)


def _continued(loaded: Loaded, images: Images, prompt: str, max_new_tokens: int) -> list[str]:
    # A decoder goes on from the last token, so shorter prompts are padded on the left.
    inputs = loaded.processor(
        text=[prompt] * len(images), images=list(images), return_tensors="pt", padding=True, padding_side="left"
    )
    written = loaded.model.generate(
        **loaded.to_device(inputs), do_sample=False, num_beams=1, max_new_tokens=max_new_tokens
    )
    return _decoded(loaded, written[:, inputs["input_ids"].shape[1] :])


def _decoded(loaded: Loaded, written: Any) -> list[str]:
    texts: list[str] = loaded.processor.batch_decode(
        written, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return texts


# Class of transformers -> how it is asked.
FAMILIES: dict[str, Callable[[Loaded, Images, str, int], list[str]]] = {
    "Florence2ForConditionalGeneration": _florence2,
    "Blip2ForConditionalGeneration": _blip2,
    "Qwen2VLForConditionalGeneration": _chat,
    "Qwen2_5_VLForConditionalGeneration": _chat,
    "Qwen3VLForConditionalGeneration": _chat,
    "LlavaForConditionalGeneration": _llava,
}
