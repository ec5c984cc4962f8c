"""How well a few fixed prompts are followed, again and again while a model is trained (`commonart train --sample-every`).

A few prompts say little about one step and much about a curve: they are the same every time, from the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from PIL import Image

from commonart.core.data.text import language_of
from commonart.core.metrics import clip_score
from commonart.core.metrics.scores import encoders_of, load_encoders
from commonart.core.registry.lookup import find_model

Scorer = Callable[[Sequence[Image.Image]], dict[str, float]]


def open_scorer(names: str, prompts: Sequence[str], accept_terms: Sequence[str] = ()) -> Scorer:
    """Return a function that scores images of `prompts`: {"clip_en": 0..100, "color_en": 0..1, "clip_ja": ..., ...}.

    With `nano`, what each prompt says of a scene is also read back from the pixels: the share of images with the right
    colors, shapes, background or places, among the prompts that name them.

    Args:
        names: a dual encoder, or two separated by a comma, the second for Japanese prompts, which are not scored
            without one. `nano` scores both languages. Raises as `clip_score.DualEncoder.load` does.
    """
    by_lang = encoders_of(names)
    rows_by_lang: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        if (lang := language_of(prompt)) in by_lang:
            rows_by_lang.setdefault(lang, []).append(row)
    model = find_model(by_lang["en"], "clip", "--clip")
    # On the CPU: a few images take seconds there, and the device's memory belongs to training.
    encoders = load_encoders(rows_by_lang, by_lang["en"], by_lang.get("ja"), device="cpu", accept_terms=accept_terms)
    texts = {lang: encoders[lang].encode_texts([prompts[row] for row in rows]) for lang, rows in rows_by_lang.items()}

    def score(images: Sequence[Image.Image]) -> dict[str, float]:
        scores: dict[str, float] = {}
        for lang, rows in rows_by_lang.items():
            generated = [images[row] for row in rows]
            features = encoders[lang].encode_images(generated)
            scores[f"clip_{lang}"] = float(clip_score.scores(features, texts[lang]).mean())
            if model.embedded:
                pairs = list(zip((prompts[row] for row in rows), generated, strict=True))
                scores |= {f"{kind}_{lang}": share for kind, share in _read_back(pairs, lang).items()}
        return scores

    return score


def _read_back(pairs: Sequence[tuple[str, Image.Image]], lang: str) -> dict[str, float]:
    """Return the share of images that show what their prompt says, for each kind of fact that any prompt names."""
    from commonart.core.nano import facts, scene_reader

    right: dict[str, list[bool]] = {"color": [], "shape": [], "background": [], "place": []}
    for prompt, image in pairs:
        expected = facts.parse(prompt, lang)
        score = facts.compare(expected, scene_reader.read(image))
        if expected.background:
            right["background"].append(score.background)
        if expected.things:
            right["shape"].append(score.shape)
            for kind in ("color", "place"):
                if all(getattr(thing, kind) for thing in expected.things):
                    right[kind].append(getattr(score, kind))
    return {kind: fmean(values) for kind, values in right.items() if values}
