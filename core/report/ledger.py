"""The component ledger: the models that took part in a run, their terms, and what they were themselves trained on.

No model here but the embedded ones was trained on licensed works alone; a card that says "licensed images" has to say this, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from commonart.core.data.caption_terms import RULES
from commonart.core.registry.catalogue import MODELS, Model
from commonart.core.registry.lookup import OPEN
from commonart.core.report.makers import SOURCE, Maker, people


class Origin(NamedTuple):
    """What a model was trained on, in two languages, and where that is stated."""

    english: str
    japanese: str
    source: str


UNDISCLOSED = Origin("not disclosed", "非公開", "")
RULE = Origin(
    "no model: written by a grammar, of what the generator drew",
    "モデルではなく、生成器の描画内容から文法で書かれたもの",
    "this project",
)
OURS = Origin(
    "scenes that this project's own generator draws, and nothing else",
    "このプロジェクトの生成器が描いた図形画像のみ", "this project",
)  # fmt: skip
_CLIP = Origin(
    "400 million image-text pairs from the web, which were not published",
    "ウェブから集めた4億組の画像と文。非公開", "https://arxiv.org/abs/2103.00020",
)  # fmt: skip
_BLIP = Origin(
    "129 million images: COCO, Visual Genome, CC3M, CC12M, SBU, 115 million of LAION-400M; its language model is an earlier one",
    "1億2900万枚（COCO、Visual Genome、CC3M、CC12M、SBU、LAION-400Mの1億1500万枚）。言語モデルは既存のもの",
    "https://arxiv.org/abs/2301.12597",
)  # fmt: skip
_PHI_VISION = Origin(
    "public documents and images with text, selected, and generated text and images; which data sets is not disclosed",
    "選別した公開文書と画像つき文書、生成した文と画像。データセット名は非公開",
    "https://huggingface.co/microsoft/Phi-3.5-vision-instruct/blob/main/data_summary_card.md",
)  # fmt: skip
_CAT = Origin(
    "translations that gpt-oss-20b and gpt-oss-120b wrote of FineWeb's web pages, abstracts on arXiv and other texts",
    "FineWebのウェブ文書、arXivの要旨などを gpt-oss-20b と gpt-oss-120b が訳した対訳",
    "https://huggingface.co/datasets/cyberagent/CAT-Translate-Dataset",
)  # fmt: skip
_SARASHINA = Origin(
    "10 trillion tokens of Japanese, English and code from the web, then generated texts; which data sets is not disclosed",
    "ウェブから集めた日本語・英語・コード10兆トークン、その後は合成データ。データセット名は非公開",
    "https://huggingface.co/sbintuitions/sarashina2.2-3b",
)
_LLM_JP = Origin(
    "Japanese, English, code and others: Wikipedia, Common Crawl, Dolma, and Japan's WARP web archive and KAKEN",
    "日本語・英語・コードなど：Wikipedia、Common Crawl、Dolma、国立国会図書館WARP、KAKEN",
    "https://huggingface.co/llm-jp/llm-jp-3-1.8b",
)
# By the registry's name, as the models' cards and papers state it (read in November 2026, but for what is said to be not
# established). Where no source says it, or the name is not here: not disclosed.
ORIGINS: dict[str, Origin] = {
    "calm2-7b": Origin(
        "1.3 trillion tokens of publicly available Japanese and English data sets; which is not disclosed",
        "公開されている日本語と英語のデータ1.3兆トークン。データセット名は非公開", "https://huggingface.co/cyberagent/calm2-7b",
    ),
    "t5-xxl": Origin(
        "T5 1.1: C4 alone, a crawl of the web", "T5 1.1：ウェブクロールのC4のみ", "https://huggingface.co/google/t5-v1_1-xxl",
    ),
    "sdxl-vae": Origin(
        "not disclosed: the card says how it was trained, not on which images",
        "非公開（カードにあるのは学習方法のみ）", "https://huggingface.co/stabilityai/sdxl-vae",
    ),
    "sdxl-vae-fp16-fix": Origin(
        "the SDXL VAE, fine-tuned to give the same output in 16 bits; neither says on which images",
        "SDXLのVAEを16ビットで同じ出力になるよう調整したもの。学習画像はどちらも非公開",
        "https://huggingface.co/madebyollin/sdxl-vae-fp16-fix",
    ),
    "florence2": Origin(
        "FLD-5B: 126 million images with 5.4 billion annotations, made by models; not published",
        "FLD-5B（画像1億2600万枚、モデルによる注釈54億件）。非公開", "https://arxiv.org/abs/2311.06242",
    ),
    "blip2": _BLIP, "blip2-opt": _BLIP, "phi3-vision": _PHI_VISION, "phi3.5-vision": _PHI_VISION,
    "phi3-medium": Origin(
        "public documents, selected, and generated text; which data sets is not disclosed",
        "選別した公開文書と生成した文。データセット名は非公開",
        "https://huggingface.co/microsoft/Phi-3-medium-128k-instruct/blob/main/data_summary_card.md",
    ),
    "qwen2-vl": Origin(
        "1.4 trillion tokens of text and images; which data sets is not disclosed",
        "文と画像1.4兆トークン。データセット名は非公開", "https://arxiv.org/abs/2409.12191",
    ),
    "llava-jp": Origin(
        "built on CALM2 and SigLIP; what else it was trained on is not established here",
        "CALM2とSigLIPが基。ほかの学習データは未確認",
        "https://huggingface.co/cyberagent/llava-calm2-siglip",
    ),
    "cat-translate": _CAT, "cat-translate-0.8b": _CAT, "cat-translate-3.3b": _CAT, "cat-translate-7b": _CAT,
    "siglip": Origin(
        "the English image-text pairs of WebLI, gathered from the web; not published",
        "ウェブから集めたWebLIのうち英語の画像と文の組。非公開", "https://huggingface.co/google/siglip-so400m-patch14-384",
    ),
    "dinov2-base": Origin(
        "LVD-142M: 142 million images chosen from the web; not published",
        "LVD-142M（ウェブから選ばれた1億4200万枚の画像）。非公開",
        "https://arxiv.org/abs/2304.07193",
    ),
    "clip-vit-l14": _CLIP, "clip-vit-b32": _CLIP, "clip-vit-l14-336": _CLIP,
    "clip-japanese-base": Origin(
        "about a billion image-text pairs from the web; which is not disclosed", "ウェブから集めた約10億組の画像と文。内訳は非公開",
        "https://huggingface.co/line-corporation/clip-japanese-base",
    ),
    "commonart-beta": Origin(
        "CommonCatalog CC BY, Megalith-10M, ArtBench (CC0) and Smithsonian Open Access, with generated captions",
        "CommonCatalog CC BY、Megalith-10M、ArtBench（CC0）、Smithsonian Open Accessと生成されたキャプション",
        "https://doi.org/10.51094/jxiv.936",
    ),
    "pixart-sigma": Origin(
        "33 million images that its makers gathered on the web, after what PixArt-alpha was trained on; not published",
        "PixArt-alphaの学習データと、作者がウェブから集めた3300万枚の画像。非公開", "https://arxiv.org/abs/2403.04692",
    ),
    "sd2.1-base": Origin(
        "a filtered subset of LAION-5B, an index of images on the web", "LAION-5B（ウェブ上の画像の一覧）を絞り込んだもの",
        "https://huggingface.co/stabilityai/stable-diffusion-2-base",
    ),
    "japanese-stable-diffusion": Origin(
        "about 100 million images with Japanese captions, of LAION-5B for one",
        "LAION-5Bなどの日本語キャプションつき画像 約1億枚", "https://huggingface.co/rinna/japanese-stable-diffusion",
    ),
    "common-canvas-s-c": Origin(
        "CommonCatalog, Creative Commons images of YFCC100M, with captions by BLIP-2",
        "CommonCatalog（YFCC100Mのクリエイティブ・コモンズ画像）とBLIP-2のキャプション", "https://arxiv.org/abs/2310.16825",
    ),
    "qwen3.5-2b": Origin(
        "trillions of multimodal tokens; which data sets is not disclosed", "数兆のマルチモーダルトークン。データセット名は非公開",
        "https://github.com/QwenLM/Qwen3.5",
    ),
    "sarashina2.2-1b": _SARASHINA, "sarashina2.2-3b": _SARASHINA, "llm-jp-3-1.8b": _LLM_JP,
    "llm-jp-3.1-1.8b": Origin(
        f"{_LLM_JP.english}; then with instructions", f"{_LLM_JP.japanese}。その後、指示データで追加学習",
        "https://huggingface.co/llm-jp/llm-jp-3.1-1.8b",
    ),
    RULES: RULE,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelUsed:
    """One model that took part, from the registry's row and the run's own record of it."""

    role: str  # of ROLES
    name: str
    revision: str
    license: str
    terms: str  # the registry's word for the terms on what it writes, "accepted by the user", or "not known"
    address: str
    trained_on: str
    trained_on_ja: str
    source: str  # where that is stated

    @property
    def undisclosed(self) -> bool:
        """Whether its makers do not say on what it was trained."""
        return self.trained_on.startswith(UNDISCLOSED.english)


class Role(NamedTuple):
    """What a model does in a run."""

    registry: str  # role of the registry's rows
    part: str = ""  # of run.json that names it


ROLES = {
    "text encoder": Role("text-encoder", "text_encoder"),
    "autoencoder": Role("autoencoder", "autoencoder"),
    "vision tower": Role("vision-tower", "vision_tower"),
    "language model": Role("text-encoder", "language_model"),
    "captioner": Role("caption"),
    "translator": Role("translate"),
    "initial weights": Role("transformer"),
    "scorer": Role("clip"),
    "audit reference": Role("transformer"),
}
MEASURING = ("scorer", "audit reference")  # roles of models that measure what was trained, and train nothing
UNNAMED = "a model that is not named"


def models_used(
    run: Mapping[str, Any] | None, makers: Sequence[Maker], evaluation: Mapping[str, Any] | None,
    audit: Mapping[str, Any] | None = None,
) -> list[ModelUsed]:  # fmt: skip
    """Return the models that took part in a run (None: in the making of shards), each once.

    Args:
        makers: of the captions; people among them are no models.
        evaluation: eval.json, whose judges are scorers.
        audit: mia.json, with its judges and its reference model.
    """
    used = [*_of_run(run or {})]
    for maker in makers:
        used += reversed(caption_models(maker, makers, run))
    for name, revision in _judges(evaluation, audit):
        used.append(_used("scorer", name, revision, "", set()))
    if isinstance(reference := (audit or {}).get("reference"), dict):
        name, revision = (str(reference.get(field) or "") for field in ("model", "revision"))
        used.append(_used("audit reference", name, revision, "", set()))
    known = {(each.role, each.name) for each in used if each.revision}
    plain = [each for each in used if each.name and (each.revision or (each.role, each.name) not in known)]
    return list(dict.fromkeys(plain))


def caption_models(maker: Maker, makers: Sequence[Maker], run: Mapping[str, Any] | None) -> list[ModelUsed]:
    """Return the models that made captions, in the order in which they worked; people are none, so that it may be empty.

    Args:
        makers: of all captions: of the model whose captions were translated, the terms follow from its own captions.
    """
    accepted = set(run["data"].get("accepted", ())) if run is not None else set[str]()
    writer, _, origin = maker.name.partition(" of ")
    models = list[ModelUsed]()
    if origin and origin != SOURCE and origin not in people(makers):
        license = next((each.license for each in makers if each.name == origin), "")
        models.append(_used("captioner", origin, "", license, accepted))
    if maker.generated:
        role = "translator" if origin else "captioner"
        models.append(_used(role, writer or UNNAMED, maker.revision, maker.license, accepted))
    return models


def _judges(evaluation: Mapping[str, Any] | None, audit: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The names and revisions of what scored the model, and of what judged its images in an audit."""
    rows = [
        *(evaluation or {}).get("scores", ()),
        *((audit or {}).get(part) for part in ("blind", "replication", "extraction")),
    ]
    judged = [row for row in rows if isinstance(row, dict) and row.get("judge")]
    return sorted({(str(row["judge"]), str(row.get("judge_revision") or "")) for row in judged})


def _of_run(run: Mapping[str, Any]) -> Iterator[ModelUsed]:
    for role, (_, part) in ROLES.items():
        if isinstance(described := run.get(part), dict):
            yield _used(role, str(described.get("name") or ""), str(described.get("revision") or ""), "", set())
    origin = run.get("init") or {}
    name = str(origin.get("from") or "nothing")
    if "step" in origin:  # an earlier run of this tool
        earlier = Origin("what the report of that run says", "その学習の報告書を参照", "this project")
        about = (Path(name).name, f"step {origin['step']}", "", "not known", "", *earlier)
        yield ModelUsed("initial weights", *about)
    elif name != "nothing":
        yield _used("initial weights", name, str(origin.get("revision") or ""), "", set())


def _used(role: str, name: str, revision: str, license: str, accepted: set[str]) -> ModelUsed:
    plain = name.partition("@")[0]
    rows = [row for row in MODELS if plain and plain in (row.name, row.hub)]
    of_role = [row for row in rows if row.role == ROLES[role].registry]
    others = rows if role == "scorer" else []  # captioners answer questions about images, too
    row = next(iter(of_role or others), None)
    if row is None:
        origin = ORIGINS.get(plain, UNDISCLOSED)
        terms = "accepted by the user" if plain in accepted else "free" if license in OPEN.values() else "not known"
        return ModelUsed(
            role, Path(plain).name if Path(plain).is_absolute() else plain, revision, license, terms, "", *origin
        )
    origin = OURS if row.embedded else ORIGINS.get(row.name, UNDISCLOSED)
    terms = "accepted by the user" if row.refused and {row.name, row.hub} & accepted else row.outputs
    return ModelUsed(
        role, row.name, revision or row.revision or "", license or row.license, terms, _address(row), *origin
    )


def _address(row: Model) -> str:
    return f"https://huggingface.co/{row.hub}" if row.hub else "this project"
