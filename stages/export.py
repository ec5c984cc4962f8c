"""A trained model as a diffusers folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commonart.core.data.drops import Summary


@dataclass(slots=True)
class Exported(Summary):
    """What `export` wrote."""

    folder: str = ""
    components: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {**Summary.as_json(self), "folder": self.folder, "components": self.components}


def export(
    source: str,
    out: str,
    *,
    text_encoder: str = "",
    autoencoder: str = "",
    precision: str = "auto",
    heads: int = 16,
    accept_terms: Sequence[str] = (),
) -> Exported:
    """Write the model `source` to the folder `out`, as `core.generation.export.export` says; precision auto keeps its own."""
    from commonart.core.generation import export as exporter
    from commonart.core.model.device import pick_dtype

    began = time.monotonic()
    components = exporter.export(
        source, Path(out), text_encoder=text_encoder, autoencoder=autoencoder,
        dtype=None if precision == "auto" else pick_dtype(precision), heads=heads, accept_terms=accept_terms,
    )  # fmt: skip
    return Exported("export", 1, 1, seconds=time.monotonic() - began, folder=out, components=components)
