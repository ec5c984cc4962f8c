"""The blind judge: could the two groups be told apart by someone who never saw the model?

Attacks look strong where members and non-members come from different sources: published ones fell from an AUC of 0.77 to
0.53 once they did not. So a classifier on features of the images alone stands beside every attack. Where it does better
than chance, what an attack finds may be the difference of the groups, and nothing is said about the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from commonart.core.audit.logistic import cross_fitted
from commonart.core.audit.permutation import LEVEL, Family, Labels, areas
from commonart.core.data.images.decode import encode, resize_crop
from commonart.core.data.shards.reader import read_bytes
from commonart.core.generation.prompts import text_of
from commonart.core.metrics import roc
from commonart.core.metrics.image_set import ImageRef, open_image

if TYPE_CHECKING:
    from commonart.core.metrics.clip_score import DualEncoder

Floats = NDArray[np.float64]

CLASSIFIER = "classifier"
COMPONENTS = 16  # of the image features, at most; one for ten images
COMPLEXITY = "png_bytes"  # without loss, at the model's size
PNG = b"\x89PNG\r\n\x1a\n"  # the first bytes of such a file


def look(
    items: Sequence[ImageRef], encoder: DualEncoder, lang: str | None, size: int
) -> tuple[dict[str, Floats], Floats]:
    """Return what the blind judge looks at: numbers of each image, [N] each, and the encoder's features [N, D].

    The size of a PNG of the model's own size is its complexity already, and is no second number where all are such files.
    """
    twice = True
    numbers: dict[str, list[int]] = {"file_bytes": [], COMPLEXITY: [], "caption_length": []}

    def images() -> Iterator[Image.Image]:
        for item in items:
            nonlocal twice
            data, image = read_bytes(item.pointer), open_image(item.pointer)
            twice = twice and data.startswith(PNG) and image.size == (size, size)
            image = image if image.size == (size, size) else resize_crop(image, size)
            numbers["file_bytes"].append(len(data))
            numbers[COMPLEXITY].append(len(encode(image, "png")))
            numbers["caption_length"].append(len(text_of(item.record, lang)))
            yield image

    features = encoder.encode_images(images())
    if twice:
        del numbers["file_bytes"]
    return {name: np.array(values, dtype=np.float64) for name, values in numbers.items()}, features


def principal(features: Floats) -> Floats:
    """Return the scores of the first principal components [N, K] of image features [N, D]."""
    count = max(1, min(COMPONENTS, len(features) // 10, features.shape[1]))
    centred = features - features.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    result: Floats = left[:, :count] * sizes[:count]
    return result


def report(single: dict[str, Floats], features: Floats, labels: Labels, *, seed: int) -> dict[str, Any]:
    """Judge members, the first rows, against others without any model.

    Args:
        single: name -> [N], each judged by itself as well: file size, compressibility, length of the caption.
        features: [N, D] of a dual encoder.
        labels: as `permutation.deal` gives them.

    Returns:
        {"auc", "classifier_p_value", "smallest_auc_found": of the classifier, "p_value": the smallest of all,
        "single": {name: {"auc", "p_value"}}, "groups_differ"}
    """
    columns = np.column_stack([principal(features), *(np.log1p(values) for values in single.values())])
    learnt = cross_fitted(columns, labels, seed=seed)
    tests = {CLASSIFIER: areas(learnt, labels), **{name: areas(values, labels) for name, values in single.items()}}
    family = Family(tests, frozenset({CLASSIFIER}))
    p_values = family.p_values()
    members = int(labels[:, 0].sum())

    def area(scores: Floats) -> dict[str, float]:
        low, high = roc.auc_interval(scores[:members], scores[members:])
        return {"value": float(roc.auc(roc.curve(scores[:members], scores[members:]))), "low": low, "high": high}

    return {
        "auc": area(learnt[:, 0]),
        "classifier_p_value": p_values[CLASSIFIER],
        "smallest_auc_found": family.smallest()[CLASSIFIER],
        "p_value": min(p_values.values()),
        "single": {name: {"auc": area(values), "p_value": p_values[name]} for name, values in single.items()},
        "groups_differ": min(p_values.values()) < LEVEL,
    }
