"""The component ledger: the models that took part in a run, their terms, and what they were themselves trained on.

No model here but the embedded ones was trained on licensed works alone; a card that says "licensed images" has to say this, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from commonart.core.data.caption_terms import RULES
from commonart.core.registry.catalogue import MODELS, Model
from commonart.core.registry.lookup import OPEN


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
_PHI = Origin(
    "filtered public web pages and generated text; which data sets is not disclosed",
    "選別した公開ウェブ文書と生成文。データセット名は非公開", "https://arxiv.org/abs/2404.14219",
)  # fmt: skip
_CLIP = Origin(
    "400 million image-text pairs from the web (WIT), which were not published",
    "ウェブから集めた4億組の画像と文（WIT）。非公開", "https://arxiv.org/abs/2103.00020",
)  # fmt: skip
_VAE = Origin(
    "not disclosed: the card says how it was trained, not on which images",
    "非公開（カードに学習方法はあるが、画像の出所はない）", "https://huggingface.co/stabilityai/sdxl-vae",
)  # fmt: skip
_QWEN = Origin(
    "image-text pairs, documents and web pages; which data sets is not disclosed",
    "画像と文の組、文書、ウェブページ。データセット名は非公開", "https://arxiv.org/abs/2409.12191",
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
# By the registry's name: as the models' papers and cards say it. A name that is not here: not disclosed.
ORIGINS: dict[str, Origin] = {
    "calm2-7b": Origin(
        "public Japanese and English text; which data sets is not disclosed, and they are not limited to licensed works",
        "公開された日本語と英語の文章。データセット名は非公開で、許諾済みの著作物に限られない",
        "https://huggingface.co/cyberagent/calm2-7b",
    ),
    "t5-xxl": Origin("C4, a crawl of the web", "ウェブクロールのC4", "https://arxiv.org/abs/1910.10683"),
    "sdxl-vae": _VAE, "sdxl-vae-fp16-fix": _VAE,
    "florence2": Origin(
        "FLD-5B: 126 million images of the web and of public data sets, with annotations by models; not published",
        "FLD-5B（ウェブと公開データセットの画像1億2600万枚、注釈はモデルによる）。非公開", "https://arxiv.org/abs/2311.06242",
    ),
    "blip2": Origin(
        "129 million images: COCO, Visual Genome, CC3M, CC12M, SBU, 115 million of LAION-400M; on a frozen FLAN-T5",
        "1億2900万枚（COCO、Visual Genome、CC3M、CC12M、SBU、LAION-400Mの1億1500万枚）。視覚部とFLAN-T5は既存のもの",
        "https://arxiv.org/abs/2301.12597",
    ),
    "phi3-vision": _PHI, "phi3.5-vision": _PHI, "phi3-medium": _PHI, "qwen2-vl": _QWEN,
    "llava-jp": Origin(
        "built on CALM2 and SigLIP; what else it was trained on is not disclosed",
        "CALM2とSigLIPを基に作られた。ほかの学習データは非公開", "https://huggingface.co/cyberagent/llava-calm2-siglip",
    ),
    "siglip": Origin("WebLI, an unpublished crawl of the web", "WebLI（非公開のウェブクロール）", "https://arxiv.org/abs/2303.15343"),
    "clip-vit-l14": _CLIP, "clip-vit-b32": _CLIP, "clip-vit-l14-336": _CLIP,
    "clip-japanese-base": Origin(
        "image-text pairs from the web; which is not disclosed", "ウェブから集めた画像と文の組。内訳は非公開",
        "https://huggingface.co/line-corporation/clip-japanese-base",
    ),
    "commonart-beta": Origin(
        "CommonCatalog CC BY, Megalith-10M, ArtBench (CC0) and Smithsonian Open Access, with generated captions",
        "CommonCatalog CC BY、Megalith-10M、ArtBench（CC0）、Smithsonian Open Accessと生成された説明文",
        "https://doi.org/10.51094/jxiv.936",
    ),
    "pixart-sigma": Origin(
        "33 million images that its makers gathered; not published", "作者が集めた3300万枚の画像。非公開",
        "https://arxiv.org/abs/2403.04692",
    ),
    "common-canvas-s-c": Origin(
        "CommonCatalog, Creative Commons images of YFCC100M, with captions by BLIP-2",
        "CommonCatalog（YFCC100Mのクリエイティブ・コモンズ画像）とBLIP-2の説明文", "https://arxiv.org/abs/2310.16825",
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

    role: str  # text encoder | autoencoder | captioner | translator | initial weights | vision tower | language model | scorer
    name: str
    revision: str
    license: str
    terms: str  # the registry's word for the terms on what it writes, "accepted by the user", or "not known"
    address: str
    trained_on: str
    trained_on_ja: str
    source: str  # where that is stated


# Part of run.json -> (role here, role of the registry).
PARTS = {
    "text_encoder": ("text encoder", "text-encoder"),
    "autoencoder": ("autoencoder", "autoencoder"),
    "vision_tower": ("vision tower", "vision-tower"),
    "language_model": ("language model", "text-encoder"),
}


def models_used(
    run: Mapping[str, Any] | None, makers: Iterable[tuple[str, str, str]], evaluation: Mapping[str, Any] | None
) -> list[ModelUsed]:
    """Return the models that took part in a run (None: in the making of shards), each once.

    Args:
        makers: of the captions: (model, or "TRANSLATOR of ORIGINAL"; revision; licence).
        evaluation: eval.json, whose judges are scorers.
    """
    accepted = set(run["data"].get("accepted", ())) if run is not None else set[str]()
    found = [*_of_run(run or {})]
    for name, revision, license in makers:
        writer, _, origin = name.partition(" of ")
        found.append(_used("translator" if origin else "captioner", writer, revision, license, accepted))
        if origin:
            found.append(_used("captioner", origin, "", "", accepted))
    for name in sorted({str(score["judge"]) for score in (evaluation or {}).get("scores", ()) if score.get("judge")}):
        found.append(_used("scorer", name, "", "", accepted))
    known = {(each.role, each.name) for each in found if each.revision}
    plain = [each for each in found if each.name and (each.revision or (each.role, each.name) not in known)]
    return list(dict.fromkeys(plain))


def _of_run(run: Mapping[str, Any]) -> Iterator[ModelUsed]:
    for part, (role, _) in PARTS.items():
        if isinstance(said := run.get(part), dict):
            yield _used(role, str(said.get("name") or ""), str(said.get("revision") or ""), "", set())
    origin = run.get("init") or {}
    name = str(origin.get("from") or "nothing")
    if "step" in origin:  # an earlier run of this tool
        earlier = Origin("what the report of that run says", "その学習の報告書を参照", "this project")
        about = (Path(name).name, f"step {origin['step']}", "", "not known", "", *earlier)
        yield ModelUsed("initial weights", *about)
    elif name != "nothing":
        yield _used("initial weights", name, str(origin.get("revision") or ""), "", set())


_ROLES = {
    "captioner": "caption", "translator": "translate", "scorer": "clip", "initial weights": "transformer",
    **dict(PARTS.values()),
}  # fmt: skip


def _used(role: str, name: str, revision: str, license: str, accepted: set[str]) -> ModelUsed:
    plain = name.partition("@")[0]
    known = (row for row in MODELS if row.role == _ROLES[role] and plain and plain in (row.name, row.hub))
    row = next(known, None)
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
