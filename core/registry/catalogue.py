"""The models that the stages know by name, as one table: where each comes from and what its terms allow.

    commonart models              # prints it
    commonart models --json       # with prompts, and where the terms were read

A model whose terms do not allow training on what it writes, or that is non-commercial, stays in the table with the
reason, so that asking for it explains itself.
"""

from __future__ import annotations

from dataclasses import dataclass

ROLES = ("caption", "translate", "text-encoder", "autoencoder", "transformer", "clip")
# A diffusers pipeline keeps its parts in sub-folders; the nano models beside them follow the same rule.
SUBFOLDERS = {
    "caption": "captioner",
    "translate": "translator",
    "text-encoder": "text_encoder",
    "autoencoder": "vae",
    "transformer": "transformer",
    "clip": "clip",
}
WRITES = ("caption", "translate")  # roles whose output becomes training data: the terms reach the trained model


@dataclass(frozen=True, slots=True)
class Model:
    """One model in one role. Strings are empty where a field does not apply."""

    name: str  # what --model takes, and what records and runs keep
    role: str  # one of ROLES
    hub: str  # hub id; for a local folder its path; "" for nano, which lies in the package
    cls: str  # class of transformers, diffusers or open_clip that loads it
    license: str  # of the weights, SPDX
    base_licenses: tuple[str, ...] = ()  # of the models that it was built on
    outputs: str = "free"  # free, use-restrictions, share-alike, restricted, non-commercial, unknown
    prompt: str = ""  # captioners: task or question; translators: template with {text}, {source}, {target}
    lang: str = ""  # language that a captioner writes
    revision: str | None = None  # commit; None is resolved at download, and recorded
    remote_code: bool = False  # needs code from its repository: --trust-remote-code and a commit
    pickle_only: bool = False  # published only as .bin: converted once (core/registry/pickle_conversion.py)
    local: bool = False  # `hub` is a folder on this machine
    text_encoder: str = ""  # transformers only: the row that its prompts go through
    autoencoder: str = ""  # transformers only: the row that decodes its latents
    checked: str = ""  # where and when the terms were read
    refused: str = ""  # why it is not used; --accept-terms NAME overrides
    broken: str = ""  # why it cannot work here at all; nothing overrides
    successor: str = ""  # what to use instead


# Sources: the models' cards on the hub, as collected in November 2026; the rows of UNCHECKED are common knowledge whose
# cards were not opened, and `commonart models --json` shows them without `checked`. No row names a commit that nobody
# has checked: the one that a download resolves to is written into every record and run. "-" is empty; `code` marks a
# model that needs code from its repository, `pickle` one that is published only as .bin.
_MODELS = """
name                role          hub                                            class                               lang flags
nano                caption       -                                              Florence2ForConditionalGeneration   en   -
florence2           caption       florence-community/Florence-2-large            Florence2ForConditionalGeneration   en   -
blip2               caption       Salesforce/blip2-flan-t5-xl                    Blip2ForConditionalGeneration       en   -
qwen2-vl            caption       Qwen/Qwen2-VL-2B-Instruct                      Qwen2VLForConditionalGeneration     en   -
qwen3-vl            caption       Qwen/Qwen3-VL-2B-Instruct                      Qwen3VLForConditionalGeneration     en   -
qwen3-vl-4b         caption       Qwen/Qwen3-VL-4B-Instruct                      Qwen3VLForConditionalGeneration     en   -
qwen3-vl-8b         caption       Qwen/Qwen3-VL-8B-Instruct                      Qwen3VLForConditionalGeneration     en   -
llava-jp            caption       cyberagent/llava-calm2-siglip                  LlavaForConditionalGeneration       ja   -
blip2-opt           caption       Salesforce/blip2-opt-2.7b                      Blip2ForConditionalGeneration       en   -
qwen2.5-vl-3b       caption       Qwen/Qwen2.5-VL-3B-Instruct                    Qwen2_5_VLForConditionalGeneration  en   -
phi3-vision         caption       microsoft/Phi-3-vision-128k-instruct           Phi3VForCausalLM                    en   code
phi3.5-vision       caption       microsoft/Phi-3.5-vision-instruct              Phi3VForCausalLM                    en   code
nano                translate     -                                              Phi3ForCausalLM                     -    -
phi3-medium         translate     microsoft/Phi-3-medium-4k-instruct             Phi3ForCausalLM                     -    -
cat-translate       translate     cyberagent/CAT-Translate-1.4b                  LlamaForCausalLM                    -    -
cat-translate-0.8b  translate     cyberagent/CAT-Translate-0.8b                  LlamaForCausalLM                    -    -
cat-translate-3.3b  translate     cyberagent/CAT-Translate-3.3b                  LlamaForCausalLM                    -    -
cat-translate-7b    translate     cyberagent/CAT-Translate-7b                    LlamaForCausalLM                    -    -
plamo-translate     translate     pfnet/plamo-2-translate                        Plamo2ForCausalLM                   -    code
fugumt              translate     staka/fugumt-en-ja                             MarianMTModel                       -    -
swallow             translate     tokyotech-llm/Llama-3.1-Swallow-8B-Instruct-v0.3  LlamaForCausalLM                 -    -
gemma               translate     google/gemma-3-4b-it                           Gemma3ForConditionalGeneration      -    -
nano                text-encoder  -                                              LlamaForCausalLM                    -    -
calm2-7b            text-encoder  cyberagent/calm2-7b                            LlamaForCausalLM                    -    pickle
t5-xxl              text-encoder  PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers  T5EncoderModel                     -    -
nano                autoencoder   -                                              AutoencoderKL                       -    -
sdxl-vae            autoencoder   stabilityai/sdxl-vae                           AutoencoderKL                       -    -
sdxl-vae-fp16-fix   autoencoder   madebyollin/sdxl-vae-fp16-fix                  AutoencoderKL                       -    -
nano                transformer   -                                              PixArtTransformer2DModel            -    -
commonart-beta      transformer   aipicasso/commonart-beta                       Transformer2DModel                  -    -
pixart-sigma        transformer   PixArt-alpha/PixArt-Sigma-XL-2-512-MS          PixArtTransformer2DModel            -    -
nano                clip          -                                              CustomTextCLIP                      -    -
clip-vit-b32        clip          timm/vit_base_patch32_clip_224.openai          ViT-B-32-quickgelu                  -    -
clip-japanese-base  clip          line-corporation/clip-japanese-base            CLYPModel                           ja   code
"""

# Terms by name: licence of the weights, of what they were built on, and what they say of the outputs.
_TERMS = """
name                weights                     below               outputs
nano                Apache-2.0                  -                   free
florence2           MIT                         MIT                 free
blip2               MIT                         Apache-2.0,MIT      free
qwen2-vl            Apache-2.0                  Apache-2.0          free
qwen3-vl            Apache-2.0                  Apache-2.0          free
qwen3-vl-4b         Apache-2.0                  Apache-2.0          free
qwen3-vl-8b         Apache-2.0                  Apache-2.0          free
llava-jp            Apache-2.0                  Apache-2.0          free
blip2-opt           MIT                         LicenseRef-OPT      non-commercial
qwen2.5-vl-3b       LicenseRef-Qwen-Research    -                   non-commercial
phi3-vision         MIT                         MIT                 free
phi3.5-vision       MIT                         MIT                 free
phi3-medium         MIT                         -                   free
cat-translate       MIT                         MIT                 free
cat-translate-0.8b  MIT                         MIT                 free
cat-translate-3.3b  MIT                         MIT                 free
cat-translate-7b    MIT                         MIT                 free
plamo-translate     LicenseRef-PLaMo-Community  -                   restricted
fugumt              CC-BY-SA-4.0                -                   share-alike
swallow             LicenseRef-Llama-3.1        LicenseRef-Gemma    restricted
gemma               LicenseRef-Gemma            -                   restricted
calm2-7b            Apache-2.0                  -                   free
t5-xxl              LicenseRef-OpenRAIL         Apache-2.0          use-restrictions
sdxl-vae            MIT                         -                   free
sdxl-vae-fp16-fix   MIT                         MIT                 free
commonart-beta      Apache-2.0                  Apache-2.0,MIT      free
pixart-sigma        LicenseRef-OpenRAIL++-M     -                   use-restrictions
clip-vit-b32        MIT                         -                   free
clip-japanese-base  Apache-2.0                  -                   free
"""

# Why a model is refused (--accept-terms overrides), and what to use instead.
_REFUSED = {
    "blip2-opt": ("its base OPT is licensed for non-commercial research only", "blip2"),
    "qwen2.5-vl-3b": ("its licence allows research only", "qwen3-vl"),
    "plamo-translate": ("its community licence reaches what it writes", "cat-translate"),
    "fugumt": ("it is share-alike, which reaches a model trained on what it writes", "cat-translate"),
    "swallow": ("the Llama 3.1 and Gemma terms reach models trained on what it writes", "cat-translate"),
    "gemma": ("the Gemma terms (up to Gemma 3) reach models trained on what it writes", "cat-translate"),
}
# Why a model cannot run here, whatever its terms.
_REMOTE_ONLY = "it exists only as remote code, and that code does not run on transformers 5"
_BROKEN = {"phi3-vision": (_REMOTE_ONLY, "qwen2-vl"), "phi3.5-vision": (_REMOTE_ONLY, "qwen2-vl")}
UNCHECKED = frozenset({"plamo-translate", "fugumt", "swallow", "gemma", "t5-xxl", "clip-vit-b32"})
# Transformer -> (text encoder, autoencoder). PixArt-Sigma's T5 lies in the repository that its transformers share.
_PARTNERS = {
    "nano": ("nano", "nano"),
    "commonart-beta": ("calm2-7b", "sdxl-vae"),
    "pixart-sigma": ("t5-xxl", "sdxl-vae"),
}

# What the models are asked.
_DESCRIBE = "Describe this image in detail in one paragraph."
_CALM = "USER: <image>\nこの画像を説明してください。\nASSISTANT: "  # cyberagent/llava-calm2-siglip's card
_CAT = "Translate the following {source} text into {target}.\n\n{text}"  # what CAT-Translate was trained on
_ONLY = (
    "Translate the following {source} image caption into natural {target}. "
    "Answer with the translation alone, without notes.\n\n{text}"
)
# By class; a model outside the table gets these too.
_PROMPTS = {
    "Florence2ForConditionalGeneration": "<MORE_DETAILED_CAPTION>",
    "Blip2ForConditionalGeneration": "a photo of",
    "Qwen2VLForConditionalGeneration": _DESCRIBE,
    "Qwen2_5_VLForConditionalGeneration": _DESCRIBE,
    "Qwen3VLForConditionalGeneration": _DESCRIBE,
    "LlavaForConditionalGeneration": _CALM,
}


def _cells(table: str) -> list[dict[str, str]]:
    head, *lines = (line.split() for line in table.strip().splitlines())
    return [dict(zip(head, ("" if cell == "-" else cell for cell in line), strict=True)) for line in lines]


def _rows() -> tuple[Model, ...]:
    terms = {row["name"]: row for row in _cells(_TERMS)}
    rows = []
    for row in _cells(_MODELS):
        name, role = row["name"], row["role"]
        term = terms[name]
        prompt = {("nano", "caption"): "<CAPTION>", ("nano", "translate"): "to {target}: {text}"}.get((name, role))
        refused, broken = _REFUSED.get(name, ("", "")), _BROKEN.get(name, ("", ""))
        partners = _PARTNERS.get(name, ("", "")) if role == "transformer" else ("", "")
        rows.append(
            Model(
                name, role, row["hub"], row["class"], term["weights"], tuple(filter(None, term["below"].split(","))),
                outputs=term["outputs"],
                prompt=prompt or (_CAT if name.startswith("cat-") else prompt_for(role, row["class"])),
                lang=row["lang"],
                remote_code=row["flags"] == "code",
                pickle_only=row["flags"] == "pickle",
                text_encoder=partners[0], autoencoder=partners[1],
                checked=_checked(name, row["hub"]),
                refused=refused[0], broken=broken[0], successor=refused[1] or broken[1],
            )
        )  # fmt: skip
    return tuple(rows)


def _checked(name: str, hub: str) -> str:
    if name in UNCHECKED:
        return ""
    return "this project" if name == "nano" else f"huggingface.co/{hub}, 2026-11"


def prompt_for(role: str, cls: str) -> str:
    """What a model of this class is asked, where the table says nothing more particular."""
    return {"caption": _PROMPTS.get(cls, ""), "translate": _ONLY}.get(role, "")


MODELS: tuple[Model, ...] = _rows()
