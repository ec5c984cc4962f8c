"""The embedded generator as a source of records: scenes with their truth, captions and licences.

commonart fetch scenes --limit 1000 -o raw/
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator

from commonart.core.data.record import Record
from commonart.core.data.sources.attribution import set_license
from commonart.core.errors import UsageError

# What the generator says about rights, by the hundredth that a record's hash falls into. All scenes are ours and free:
# the others stand for what real sources mix in, so that the licence filter has work on the embedded default too.
SCENE_LICENSES: tuple[tuple[int, str], ...] = (
    (60, "https://creativecommons.org/publicdomain/zero/1.0/"),
    (28, "https://creativecommons.org/licenses/by/4.0/"),
    (5,  "https://creativecommons.org/licenses/by/2.1/jp/deed.ja"),
    (2,  "https://creativecommons.org/licenses/by-nc/4.0/"),
    (2,  "https://creativecommons.org/licenses/by-sa/4.0/"),
    (2,  "All rights reserved"),
    (1,  "see the author's page"),
)  # fmt: skip
OBSERVED_AT = "2026-01-01T00:00:00Z"  # a constant: the generator's answer does not depend on the day


def list_scenes(count: int, seed: int, size: int, captions: bool) -> Iterator[Record]:
    """Yield `count` scenes of one seed; `size` is their side in pixels, `captions` whether the grammar describes them."""
    import numpy as np

    from commonart.core.nano import grammar, scenes

    if not 8 <= size <= 4096:
        raise UsageError(f"--size {size} is no size for a scene.", "Give 8 to 4096 pixels.")
    for index in range(count):
        rng = np.random.default_rng([seed, index])  # so that a record does not depend on how many there are
        scene = scenes.random_scene(rng)
        record: Record = {
            "key": f"scenes_{seed}-{index:07d}",
            "source": "scenes",
            "source_id": f"{seed}-{index}",
            "title": f"scene {index} of seed {seed}",
            "author": "commonart",
            "width": size,
            "height": size,
            "scene": scenes.scene_to_json(scene),
        }
        raw = _license(f"{seed}/{index}")
        set_license(record, raw, raw if "://" in raw else "", OBSERVED_AT)
        if captions:
            record["captions"] = [
                {
                    "text": grammar.caption(scene, lang, rng),
                    "lang": lang,
                    "model": "scenes-grammar",
                    "revision": "1",
                    "license": "CC0-1.0",
                    "synthetic": True,
                    "translated_from": None,
                }
                for lang in ("en", "ja")
            ]
        yield record


def _license(name: str) -> str:
    place = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % 100
    for share, raw in SCENE_LICENSES:
        place -= share
        if place < 0:
            return raw
    raise AssertionError("SCENE_LICENSES adds up to 100")


def render(record: Record) -> bytes:
    """The PNG of a record that `list_scenes` made."""
    from PIL import Image

    from commonart.core.nano import scenes

    out = io.BytesIO()
    pixels = scenes.render(scenes.scene_from_json(record["scene"]), record.get("width", 64))
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
