"""From the attacks' scores to what may be said: "leaks", "no leak found", or "groups differ".

The chance that an audit of a model which gives nothing away says "leaks" is 1 %, whatever the number of attacks
(`permutation.Family`). An area far below one half is a finding too. With a reference model, which never saw the images, an
attack's score is the difference of its scores on both models: what makes an image easy for every model falls out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commonart.core.audit import set_test, thresholds
from commonart.core.audit.attacks import Measures, attack_scores
from commonart.core.audit.logistic import cross_fitted
from commonart.core.audit.permutation import LEVEL, Family, Labels, areas
from commonart.core.metrics import roc

Floats = NDArray[np.float64]
LEAKS, NOTHING, DIFFER = "leaks", "no leak found", "groups differ"
COMBINED, COMPLEXITY = "combined", "complexity"


def scores_of(attacks: Sequence[str], measures: Measures, complexity: Floats, flow: bool) -> dict[str, Floats]:
    """Return the scores [N] of each attack, larger for a member; of a flow model those calibrated by complexity as well.

    `complexity`: [N], how many bytes an image takes when it is compressed without loss.
    """
    found = {attack: attack_scores(attack, measures) for attack in attacks}
    if flow and "loss" in found:
        found[COMPLEXITY] = unexplained(found["loss"], complexity)
    return found


def unexplained(scores: Floats, complexity: Floats) -> Floats:
    """Return what of the scores [N] the images' complexity does not explain, by a parabola through all images.

    A loss is large for a busy image, member or not (the statistic of arXiv 2603.13421, in its class: no code is published).
    """
    x = np.log1p(complexity)
    spread = x.std()
    x = (x - x.mean()) / spread if spread > 1e-12 else np.zeros_like(x)
    columns = np.stack([np.ones_like(x), x, x * x], axis=1)
    fitted, *_ = np.linalg.lstsq(columns, scores, rcond=None)
    result: Floats = scores - columns @ fitted
    return result


def judge(
    target: Mapping[str, Floats],
    reference: Mapping[str, Floats] | None,
    blind: Mapping[str, Any] | None,
    labels: Labels,
    *,
    seed: int,
) -> dict[str, Any]:
    """Return `attacks`, `combined`, `set_test`, `reference_p_value`, `verdict` and `reason` of mia.json.

    Args:
        target, reference: attack -> scores [N] on the two models, members first.
        blind: what `blind.report` returned.
        labels: as `permutation.deal` gives them.
    """
    members = int(labels[:, 0].sum())
    calibrated = target if reference is None else {name: target[name] - reference[name] for name in target}
    learnt = cross_fitted(np.column_stack(list(calibrated.values())), labels, seed=seed)
    tests = {name: areas(values, labels) for name, values in calibrated.items()} | {COMBINED: areas(learnt, labels)}
    family = Family(tests, frozenset({COMBINED}))
    p_values, smallest = family.p_values(), family.smallest()
    reference_p = None
    if reference is not None:
        on_reference = Family({name: areas(values, labels) for name, values in reference.items()}).p_values()
        reference_p = min(on_reference.values())
    differ = bool(blind and blind["groups_differ"]) or (reference_p is not None and reference_p < LEVEL)

    def described(name: str, values: Floats) -> dict[str, Any]:
        row = roc.report(values[:members], values[members:])
        row["roc"] = roc.corners(roc.curve(values[:members], values[members:]))
        row["p_value"], row["smallest_auc_found"] = p_values[name], smallest[name]
        row["carried_over"] = thresholds.carried_over(values[:members], values[members:], seed=seed)
        row["verdict"] = DIFFER if differ else LEAKS if p_values[name] < LEVEL else NOTHING
        return row

    rows: dict[str, Any] = {}
    for name, values in calibrated.items():
        rows[name] = described(name, values)
        if reference is not None:  # both for themselves, beside their difference
            for key, scores in (("target", target[name]), ("reference", reference[name])):
                rows[name][key] = roc.report(scores[:members], scores[members:])
    combined = described(COMBINED, learnt[:, 0])
    found = [name for name, p in p_values.items() if p < LEVEL]
    verdict = DIFFER if differ else LEAKS if found else NOTHING
    return {
        "verdict": verdict,
        "reason": _reason(verdict, found, p_values, smallest, blind, reference_p),
        "level": LEVEL,
        "attacks": rows,
        "combined": combined,
        "set_test": set_test.report(learnt, labels),
        "reference_p_value": reference_p,
    }


def curve(measures: Measures, times: Sequence[int], members: int) -> list[dict[str, Any]]:
    """Return the area of `loss` and of `clid` at each time alone, with 95 % intervals: where along t the model leaks."""
    rows = []
    for column, t in enumerate(times):
        row: dict[str, Any] = {"t": t}
        at = {"loss": -measures["loss"][:, column]} if "loss" in measures else {}
        if "null" in measures:
            at["clid"] = measures["null"][:, column] - measures["loss"][:, column]
        for name, values in at.items():
            low, high = roc.auc_interval(values[:members], values[members:])
            row[name] = {"value": roc.auc(roc.curve(values[:members], values[members:])), "low": low, "high": high}
        rows.append(row)
    return rows


def _reason(
    verdict: str, found: Sequence[str], p_values: Mapping[str, float], smallest: Mapping[str, float],
    blind: Mapping[str, Any] | None, reference_p: float | None,
) -> str:  # fmt: skip
    if verdict == DIFFER:
        if blind and blind["groups_differ"]:
            return f"a judge that never saw the model tells the groups apart (p {blind['p_value']:.3f})"
        return f"attacks on the reference model, which never saw them, tell the groups apart (p {reference_p:.3f})"
    if verdict == LEAKS:
        told = ", ".join(f"{name} (p {p_values[name]:.3f})" for name in found)
        return f"told apart by {told}, corrected for {len(p_values)} tests"
    name = min(smallest, key=lambda key: smallest[key])
    least = smallest[name]
    enough = "so few images would show no leak at all"
    if least < 1:
        enough = f"by {name}, a leak with an AUC of {least:.3f} would have been found four times in five"
    return f"the strongest of {len(p_values)} tests has p {min(p_values.values()):.3f}; {enough}"
