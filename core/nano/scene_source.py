"""Generated scenes as a source of records, with their facts, captions and licences."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator

from commonart.core.data.record import Record, add_caption
from commonart.core.data.sources.attribution import set_license
from commonart.core.errors import UsageError

# (hundredths of the records, statement about rights). All scenes are free; the other statements stand for what real
# sources contain, so that the licence filter has something to reject.
SCENE_LICENSES: tuple[tuple[int, str], ...] = (
    (60, "https://creativecommons.org/publicdomain/zero/1.0/"),
    (28, "https://creativecommons.org/licenses/by/4.0/"),
    (5,  "https://creativecommons.org/licenses/by/2.1/jp/deed.ja"),
    (2,  "https://creativecommons.org/licenses/by-nc/4.0/"),
    (2,  "https://creativecommons.org/licenses/by-sa/4.0/"),
    (2,  "All rights reserved"),
    (1,  "see the author's page"),
)  # fmt: skip
OBSERVED_AT = "2026-01-01T00:00:00Z"  # a constant, so that records do not depend on the day


def list_scenes(count: int, seed: int, size: int, captions: bool) -> Iterator[Record]:
    """Yield `count` scenes of one seed, `size` pixels wide and high, with captions of the grammar if `captions`."""
    import numpy as np

    from commonart.core.nano import grammar, scenes

    if not 8 <= size <= 4096:
        raise UsageError(f"--size {size} must be from 8 to 4096 pixels for scenes.", "64 is the default.")
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
        for lang in ("en", "ja") if captions else ():
            text = grammar.caption(scene, lang, rng)
            add_caption(record, text, lang=lang, model="scenes-grammar", revision="1", license="CC0-1.0")
        yield record


def _license(name: str) -> str:
    hundredth = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) % 100
    for share, raw in SCENE_LICENSES:
        hundredth -= share
        if hundredth < 0:
            return raw
    raise AssertionError("SCENE_LICENSES adds up to 100")


def render(record: Record) -> bytes:
    """Render the PNG of a record of `list_scenes`."""
    from PIL import Image

    from commonart.core.nano import scenes

    out = io.BytesIO()
    pixels = scenes.render(scenes.scene_from_json(record["scene"]), record.get("width", 64))
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
