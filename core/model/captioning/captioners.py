"""Models that describe images, one adapter per family: images in, one caption each out.

    commonart caption --model florence2,qwen2-vl raw/ -o captioned/

The embedded nano captioner is a Florence-2 and uses the same adapter as the large one. Decoding is deterministic
(greedy, or the checkpoint's own number of beams).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from PIL import Image

from commonart.core.data.drops import Problem
from commonart.core.model.captioning.generate import RETRY, Generated, Inputs, LoadedModel, TextGenerator

SIDE = 768  # pixels of the longer side: what Florence-2 looks at, the most of those with a fixed size
Images = Sequence[Image.Image]


def _florence2(loaded: LoadedModel, images: Images, prompt: str) -> Inputs:
    # The prompt is a task token (<CAPTION>, <MORE_DETAILED_CAPTION>), which the processor turns into its sentence.
    return Inputs(loaded.processor(text=[prompt] * len(images), images=list(images), return_tensors="pt", padding=True))


def _blip2(loaded: LoadedModel, images: Images, prompt: str) -> Inputs:
    loaded.processor.num_query_tokens = loaded.model.config.num_query_tokens  # absent from older processor files
    inputs = loaded.processor(text=[prompt] * len(images), images=list(images), return_tensors="pt", padding=True)
    decoder_only = not loaded.model.language_model.config.is_encoder_decoder
    return Inputs(inputs, inputs["input_ids"].shape[1] if decoder_only else 0)


def _chat(loaded: LoadedModel, images: Images, prompt: str) -> Inputs:
    """Ask Qwen2-VL, Qwen2.5-VL or Qwen3-VL in a chat turn with one image and one question."""
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    question = loaded.processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    return _continue(loaded, images, question)


def _llava(loaded: LoadedModel, images: Images, prompt: str) -> Inputs:
    # Processor files older than transformers 4.46 do not say how many tokens an image takes; the model's config does.
    config, processor = loaded.model.config, loaded.processor
    if processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        processor.num_additional_image_tokens = 1 if config.vision_config.model_type == "clip_vision_model" else 0
    if "<image>" in prompt:  # written out, as the model's card has it
        return _continue(loaded, images, prompt)
    if processor.chat_template:
        return _chat(loaded, images, prompt)
    return _continue(loaded, images, f"USER: <image>\n{prompt}\nASSISTANT:")  # as LLaVA 1.5 was trained


def _continue(loaded: LoadedModel, images: Images, prompt: str) -> Inputs:
    # A decoder continues from the last token, so shorter prompts are padded on the left.
    inputs = loaded.processor(
        text=[prompt] * len(images), images=list(images), return_tensors="pt", padding=True, padding_side="left"
    )
    return Inputs(inputs, inputs["input_ids"].shape[1], {"num_beams": 1})


# Class of transformers -> its adapter.
ADAPTERS: dict[str, Callable[[LoadedModel, Images, str], Inputs]] = {
    "Florence2ForConditionalGeneration": _florence2,
    "Blip2ForConditionalGeneration": _blip2,
    "Qwen2VLForConditionalGeneration": _chat,
    "Qwen2_5_VLForConditionalGeneration": _chat,
    "Qwen3VLForConditionalGeneration": _chat,
    "LlavaForConditionalGeneration": _llava,
}


class Captioner(TextGenerator):
    """A model that describes images."""

    ROLE = "caption"
    PROCESSOR = "AutoProcessor"
    MODEL_CLASSES = ADAPTERS
    MAX_NEW_TOKENS = 256  # what is cut off is refused: a paragraph of 160 words has about 220, in Japanese more

    def prepare(self, images: Images, prompt: str) -> Inputs:
        """Run the processor over RGB images, which another thread may do while the device generates."""
        return ADAPTERS[self.model.cls](self.loaded, images, prompt)

    def image_tokens(self, size: tuple[int, int]) -> int:
        """Return how many tokens an image of (width, height) takes in the prompt; 0 where its size does not matter."""
        try:
            return int(self.loaded.processor._get_num_multimodal_tokens(image_sizes=[size[::-1]]).num_image_tokens[0])
        except Exception:  # a processor that does not tell, or an image that it refuses
            return 0

    def caption(
        self, images: Images, prompt: str, *, retry: bool = False, inputs: Inputs | None = None
    ) -> list[Generated | Problem]:
        """Describe RGB images: one caption each, in order.

        Args:
            prompt: one of the texts of `model.prompts`.
            retry: decode in another way than the first time.
            inputs: of `prepare` for the same images, where that was done before.
        """
        options: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, **(RETRY if retry else {})}

        def batch(part: Images) -> list[Generated]:
            ready = inputs if inputs is not None and len(part) == len(images) else self.prepare(part, prompt)
            return self.loaded.generate(ready.tensors, skip=ready.skip, **ready.options, **options)

        return self._generate(images, batch)

    @cached_property
    def largest_batch(self) -> int:
        """The images that fit into the device's memory at once, found from blank ones of the largest size."""
        blank = Image.new("RGB", (self.side or SIDE, self.side or SIDE))
        prompt = self.model.prompts[0].texts[0]

        def generate(count: int) -> None:
            inputs = self.prepare([blank] * count, prompt)
            self.loaded.generate(inputs.tensors, skip=inputs.skip, **inputs.options, max_new_tokens=2)

        return self._largest_batch(generate)
