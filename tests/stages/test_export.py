"""`export`: what is written is a model again, and the summary names it."""

from __future__ import annotations

from pathlib import Path

import tiny_pipeline

from commonart.core.generation.components import locate
from commonart.core.generation.request import ModelSpec
from commonart.stages.export import export


def test_a_model_is_exported_and_its_components_are_named(tmp_path: Path) -> None:
    model = tiny_pipeline.pipeline(tmp_path / "tiny")
    done = export(str(model), str(tmp_path / "out"), precision="bf16")
    summary = done.as_json()
    assert (summary["stage"], summary["folder"]) == ("export", str(tmp_path / "out"))
    assert summary["components"] == ["transformer", "text_encoder", "vae"]
    assert locate(ModelSpec(str(tmp_path / "out"))).objective == "flow"
    weights = {
        part: sum(p.stat().st_size for p in (tmp_path / part / "transformer").glob("*.safetensors"))
        for part in ("tiny", "out")
    }
    assert weights["out"] < 0.6 * weights["tiny"]  # bf16 of fp32
