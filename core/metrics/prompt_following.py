"""How well a few fixed prompts are followed, again and again while a model is trained.

    commonart train --stage 512 --sample-every 1000 --clip clip-vit-b32
    commonart train --stage nano --sample-every 200                        # judged by nano, and read back as scenes

Few prompts say little of one step and much of a curve: the same ones, from the same noise, every time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from PIL import Image

from commonart.core.data.language import lang_of
from commonart.core.metrics import clip_score
from commonart.core.metrics.scores import load_judges

Judge = Callable[[Sequence[Image.Image]], dict[str, float]]


def open_judge(names: str, prompts: Sequence[str], accept_terms: Sequence[str] = ()) -> Judge:
    """What gives pictures of `prompts` their scores: {"clip_en": 0..100, "clip_ja": ..., "color_en": 0..1, ...}.

    Args:
        names: a dual encoder, or two with a comma between them, the second for Japanese prompts, which have no score
            without one. `nano` knows both languages, and what its prompts say of a scene is read back from the pixels:
            the share of prompts whose colours, shapes, background or places are right, among those that tell them.

    Raises:
        UsageError, CommonArtError: as `clip_score.DualEncoder.load`.
    """
    first, _, second = names.partition(",")
    rows: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(lang_of(prompt), []).append(row)
    if first != "nano" and not second:
        rows.pop("ja", None)
    # On the CPU: a few pictures take seconds there, and the device's memory is the training's.
    judges = load_judges(rows, first, second or None, device="cpu", accept_terms=accept_terms)
    texts = {lang: judges[lang].texts([prompts[row] for row in own]) for lang, own in rows.items()}

    def judge(pictures: Sequence[Image.Image]) -> dict[str, float]:
        found: dict[str, float] = {}
        for lang, own in rows.items():
            drawn = [pictures[row] for row in own]
            found[f"clip_{lang}"] = float(clip_score.scores(judges[lang].images(drawn), texts[lang]).mean())
            if first == "nano":
                pairs = zip((prompts[row] for row in own), drawn, strict=True)
                found |= {f"{kind}_{lang}": share for kind, share in _read_back(list(pairs), lang).items()}
        return found

    return judge


def _read_back(pairs: Sequence[tuple[str, Image.Image]], lang: str) -> dict[str, float]:
    """Shares of the prompts whose picture shows what they tell, for each kind of fact that any of them tells."""
    from commonart.core.nano import grammar, scene_reader

    right: dict[str, list[bool]] = {"color": [], "shape": [], "background": [], "place": []}
    for prompt, picture in pairs:
        told = grammar.facts(prompt, lang)
        score = grammar.compare(told, scene_reader.read(picture))
        if told.background:
            right["background"].append(score.background)
        if told.things:
            right["shape"].append(score.shape)
            for kind in ("color", "place"):
                if all(getattr(thing, kind) for thing in told.things):
                    right[kind].append(getattr(score, kind))
    return {kind: fmean(each) for kind, each in right.items() if each}
