"""Facts with everything that the card's page can show: a real run's, and made-up curves, scores and history beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from commonart.core.report.facts import Facts

HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)> $\\frac{ 赤い丸 \u202eevil"
COMMON = {"model": "runs/tiny", "n": 45, "steps": 20, "guidance": 4.5, "seed": 0, "split": "heldout"}


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.0625, "high": value + 0.0625}


def audit(verdict: str = "no leak found") -> dict[str, Any]:
    def attack(value: float) -> dict[str, Any]:
        return {"auc": interval(value), "p_value": 0.347, "smallest_auc_found": 0.733}

    return {
        "verdict": verdict, "reason": "", "question": "training set",
        "members": 60, "heldout": 39, "level": 0.01, "data_is_of_the_run": True,
        "attacks": {"loss": attack(0.4375), "pfami": attack(0.5625)}, "combined": attack(0.5),
        "blind": {"auc": interval(0.516), "p_value": 0.155},
        "replication": {"verdict": "no near copies found", "copies": 0, "generated": 20},
        "extraction": {"verdict": "extracted", "captions": 12},
    }  # fmt: skip


def full(facts: Facts, text: str = "plain") -> Facts:
    """`facts` with every part; `text` stands wherever other people's words can stand."""
    scores = [
        {"metric": "FID", "lang": "en", **interval(14.25), "judge": text, "mode": "clean", **COMMON},
        {
            "metric": "CLIP",
            "lang": "en",
            **interval(28.125),
            "judge": "clip-vit-b32",
            "mode": "paper",
            "reference": 31.5,
            **COMMON,
        },
        {"metric": "scenes", "lang": "ja", "set": "unseen", "color": 0.489, "shape": 0.133, **COMMON, "n": 30},
        {"metric": "KID", "lang": "en", "value": 0.0123, **COMMON, "model": text},
    ]
    history = [
        {"stage": "fetch", "in": 1200, "out": 1150, "dropped": {"http_404": 41, f"opt_out:{text}": 9}, "settings": {"a": text}},
        {"stage": "license-filter", "in": 1140, "out": 1074, "lost": 10, "settings": {},
         "dropped": {"license_not_allowed:CC-BY-NC-4.0": 58, "license_unknown": 8}},
        {"stage": text, "in": 1074, "out": 1074, "dropped": {}, "missing": {"model_error": 3}, "changed": True},
        {"stage": "train", "in": 1074, "out": 1029, "dropped": {"heldout": 45}, "settings": {}},
    ]  # fmt: skip
    curves = [{"step": step, "loss": 2 / step, "color_en": step / 10} for step in range(1, 7)]
    curves += [{"step": step, "heldout_loss": 2.25 / step, "training_loss": 2 / step} for step in (2, 4, 6)]
    return replace(
        facts, name=text, curves=curves, evaluation={"scores": scores}, audit=audit(), history=history,
        untraced={"address": 7}, sources={text: 20, "museum": 1},
    )  # fmt: skip
