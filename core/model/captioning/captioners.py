"""Models that describe images, one adapter per family: images in, one caption each out.

    commonart caption --model florence2,qwen2-vl raw/ -o captioned/

The embedded nano captioner is a Florence-2 and uses the same adapter as the large one. Decoding is deterministic
(greedy, or the checkpoint's own number of beams; drawn with a seed at a temperature).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from commonart.core.data.drops import Problem
from commonart.core.errors import CommonArtError
from commonart.core.model.captioning.generate import RETRY, Generated, Inputs, LoadedModel, TextGenerator
from commonart.core.model.captioning.sampling import Sampling, seed_of
from commonart.core.registry.catalogue import Model
from commonart.core.registry.lookup import read_json

SIDE = 768  # pixels of the longer side: what Florence-2 looks at, the most of those with a fixed size
ANSWER_TOKENS = 16  # of an answer to a question: "Yes, there are." and the like
Images = Sequence[Image.Image]


def _florence2(loaded: LoadedModel, images: Images, prompt: str) -> Inputs:
    # The prompt is a task token (<CAPTION>, <MORE_DETAILED_CAPTION>), which the processor turns into its sentence.
    return Inputs(loaded.processor(text=[prompt] * len(images), images=list(images), return_tensors="pt", padding=True))


def _blip2(loaded: LoadedModel, images: Images, prompt: str) -> Inputs:
    loaded.processor.num_query_tokens = loaded.model.config.num_query_tokens  # absent from older processor files
    inputs = loaded.processor(text=[prompt] * len(images), images=list(images), return_tensors="pt", padding=True)
    decoder_only = not loaded.model.language_model.config.is_encoder_decoder
    return Inputs(inputs, inputs["input_ids"].shape[1] if decoder_only else 0)


def _phi3_vision(loaded: LoadedModel, images: Images, prompt: str) -> Inputs:
    inputs = loaded.processor(prompt, images)
    return Inputs(inputs, inputs["input_ids"].shape[1], {"num_beams": 1})


def _chat(loaded: LoadedModel, images: Images, prompt: str) -> Inputs:
    """Ask about one image in a chat turn, as the model's template has it."""
    question = _question(loaded.processor, prompt)
    bos = loaded.processor.tokenizer.bos_token
    # Some templates write the first token themselves; the model has never seen a second.
    special = {"add_special_tokens": False} if bos and question.startswith(bos) else {}
    inputs = loaded.processor(
        # A list of images for each text: processors that take several images a text tell by it which is whose.
        text=[question] * len(images), images=[[image] for image in images], return_tensors="pt", padding=True,
        padding_side="left",  # a decoder continues from the last token
        **special,
    )  # fmt: skip
    return Inputs(inputs, inputs["input_ids"].shape[1], {"num_beams": 1})


def _llava(loaded: LoadedModel, images: Images, prompt: str) -> Inputs:
    # Processor files older than transformers 4.46 do not say how many tokens an image takes; the model's config does.
    config, processor = loaded.model.config, loaded.processor
    if processor.patch_size is None:
        processor.patch_size = config.vision_config.patch_size
        processor.vision_feature_select_strategy = config.vision_feature_select_strategy
        processor.num_additional_image_tokens = 1 if config.vision_config.model_type == "clip_vision_model" else 0
    return _chat(loaded, images, prompt)


def _question(processor: Any, prompt: str) -> str:
    """The text of a chat turn with one image and one question; a prompt with the image's place in it stays as it is."""
    image = getattr(processor, "image_token", "<image>")
    if "<image>" in prompt or image in prompt:
        return prompt
    template = processor.chat_template or processor.tokenizer.chat_template
    template = template.get("default") if isinstance(template, dict) else template
    if not template:
        return f"USER: {image}\n{prompt}\nASSISTANT:"  # as LLaVA 1.5 was trained
    variables = {"enable_thinking": False} if "enable_thinking" in template else {}

    def asked(content: Any) -> str:
        turn = [{"role": "user", "content": content}]
        text: str = processor.apply_chat_template(
            turn, chat_template=template, tokenize=False, add_generation_prompt=True, **variables
        )
        return text

    try:
        question = asked([{"type": "image"}, {"type": "text", "text": prompt}])
    except Exception:  # whatever a template raises on content that is a list
        question = ""
    # Templates of a tokenizer know content of text alone, and others of them write a list as Python would.
    return question if prompt in question and "'type'" not in question else asked(f"{image}\n{prompt}")


# Class -> its adapter; all others of IMAGE_TEXT are asked by `_chat`.
ADAPTERS: dict[str, Callable[[LoadedModel, Images, str], Inputs]] = {
    "Florence2ForConditionalGeneration": _florence2,
    "Blip2ForConditionalGeneration": _blip2,
    "Phi3VForCausalLM": _phi3_vision,
    **dict.fromkeys(
        (
            "LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration", "LlavaNextVideoForConditionalGeneration",
            "VipLlavaForConditionalGeneration",
        ),
        _llava,
    ),
}  # fmt: skip
IMAGE_TEXT = {*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values(), "Phi4MultimodalForCausalLM"}


class Captioner(TextGenerator):
    """A model that describes images."""

    ROLE = "caption"
    PROCESSOR = "AutoProcessor"
    MODEL_CLASSES = frozenset(IMAGE_TEXT | set(ADAPTERS))
    CHOICE = "a model that transformers loads as AutoModelForImageTextToText, or one of `commonart models caption`"
    MAX_NEW_TOKENS = 256  # what is cut off is refused: a paragraph of 160 words has about 220, in Japanese more

    @classmethod
    def check_files(cls, model: Model, folder: Path) -> None:
        """Raise CommonArtError where the small files of a model say that it cannot describe images here."""
        super().check_files(model, folder)
        if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
            raise CommonArtError(
                f"{model.name} has no processor: preprocessor_config.json and processor_config.json are missing.",
                "Copy the processor's files of the original model into its folder, or choose another model.",
            )
        if model.cls not in ADAPTERS and not _has_template(folder):
            raise CommonArtError(
                f"{model.name} is a {model.cls} without a chat template, so how it wants to be asked is unknown.",
                "Choose a model that was trained to answer questions, or put its chat_template.jinja into its folder.",
            )

    @property
    def _classes(self) -> tuple[Any, Any]:
        if self.model.cls == "Phi3VForCausalLM":
            from commonart.core.model.captioning import phi3_vision  # and with it modules that no other needs: seconds

            return phi3_vision.Phi3VForCausalLM, phi3_vision.Phi3VProcessor
        return super()._classes

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model on its device, with tokens that end and pad texts.

        Raises:
            CommonArtError: Its files do not make a model.
        """
        loaded = super().loaded
        tokenizer, config = getattr(loaded.processor, "tokenizer", None), loaded.model.generation_config
        if tokenizer is None:  # AutoProcessor gives what it finds, and be it an empty tokenizer
            raise CommonArtError(
                f"{self.name} cannot be loaded from {self.resolved.folder}: its files make no processor of images and texts.",
                "Copy the processor's files of the original model into its folder, or choose another model.",
            )
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        if config.eos_token_id is None:
            config.eos_token_id = tokenizer.eos_token_id
        if self.model.cls == "Phi3VForCausalLM":  # the published configuration names none of those that it writes
            told = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
            config.eos_token_id = [*told, *loaded.processor.end_ids]
        if config.pad_token_id is None:
            config.pad_token_id = tokenizer.pad_token_id
        return loaded

    def prepare(self, images: Images, prompt: str) -> Inputs:
        """Run the processor over RGB images, which another thread may do while the device generates."""
        return ADAPTERS.get(self.model.cls, _chat)(self.loaded, images, prompt)

    def image_tokens(self, size: tuple[int, int]) -> int:
        """Return how many tokens an image of (width, height) takes in the prompt; 0 where its size does not matter."""
        try:
            return int(self.loaded.processor._get_num_multimodal_tokens(image_sizes=[size[::-1]]).num_image_tokens[0])
        except Exception:  # a processor that does not tell, or an image that it refuses
            return 0

    def caption(
        self,
        images: Images,
        prompt: str,
        *,
        keys: Sequence[str] = (),
        retry: bool = False,
        inputs: Inputs | None = None,
    ) -> list[Generated | Problem]:
        """Describe RGB images: one caption each, in order.

        Args:
            prompt: one of the texts of `model.prompts`.
            keys: of the images, one each, on which depends what is drawn at a temperature.
            retry: decode in another way than the first time.
            inputs: of `prepare` for the same images, where that was done before.
        """
        options: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, **(RETRY if retry else {})}

        def batch(part: Sequence[tuple[Image.Image, str]]) -> list[Generated]:
            shown = [image for image, _ in part]
            ready = inputs if inputs is not None and len(part) == len(images) else self.prepare(shown, prompt)
            seeds = [seed_of(self.seed, self.name, prompt, key) for _, key in part]
            drawn = Sampling(self.temperature, seeds, ready.skip) if self.temperature else None
            return self.loaded.generate(ready.tensors, skip=ready.skip, sampling=drawn, **{**ready.options, **options})

        return self._generate(list(zip(images, keys or [""] * len(images), strict=True)), batch)

    def answer(self, images: Images, question: str) -> list[Generated | Problem]:
        """Answer a question about RGB images, one answer each, with the probabilities of its first token.

        Only a model that is asked in a chat turn can (`endpoint.NOT_CHAT` lists those that are not).
        """
        usual = self.model.prompts[0].texts[0] if self.model.prompts else ""
        prompt = f"USER: <image>\n{question}\nASSISTANT: " if usual.startswith("USER: <image>") else question

        def batch(part: Images) -> list[Generated]:
            inputs = self.prepare(part, prompt)
            options = {**inputs.options, "max_new_tokens": ANSWER_TOKENS}
            return self.loaded.answer(inputs.tensors, skip=inputs.skip, **options)

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


def _has_template(folder: Path) -> bool:
    """Whether a model's small files hold a chat template."""
    kept = ("chat_template.json", "processor_config.json", "tokenizer_config.json")
    return (folder / "chat_template.jinja").is_file() or any(
        read_json(folder / name).get("chat_template") for name in kept
    )
