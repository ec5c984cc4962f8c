"""The table that `commonart mia` prints of an audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commonart.core.audit.page_cells import percent
from commonart.core.audit.page_names import terms
from commonart.core.audit.set_test import FEWEST
from commonart.core.audit.verdict import DIFFER

FEW_IMAGES = 99  # on a side; below it no TPR at an FPR of 1 % can be told


def text(result: Mapping[str, Any]) -> str:
    """Return an audit, the content of mia.json, as lines of text."""
    called, blind, keys = terms(result), result["blind"], result["question"] != "training set"
    sides = f"{result['members']:,} {'works in question' if keys else 'members'}, {result['heldout']:,} held-out images"
    lines = [
        f"{sides}; 95 % intervals",
        f"{'attack':<12} {'AUC':<22} {'TPR at 1 % FPR':<22} {'p':<7} {'on the reference':<22} verdict",
    ]
    for name, row in {**result["attacks"], "combined": result["combined"]}.items():
        reference = row.get("reference", {}).get("auc")
        cells = f"{_cell(row['auc']):<22} {_cell(row['tpr@1%fpr']):<22} {row['p_value']:<7.3f} {_cell(reference):<22}"
        lines.append(f"{name:<12} {cells} {row['verdict']}")
    lines.append(f"{'blind judge':<12} {_cell(blind['auc']):<22} {'':<22} {blind['p_value']:<7.3f}")
    if result["heldout"] < FEW_IMAGES:
        fpr = result["combined"]["smallest_fpr"]
        lines.append(
            f"{result['heldout']} held-out images carry no FPR below {100 * fpr:.1f} %; 1 % needs {FEW_IMAGES}"
        )
    test = result["set_test"]
    if test and result["verdict"] == DIFFER:
        lines.append("the set as a whole: no statement, as the groups differ")
    elif test:
        lines.append(f"the set as a whole: p {test['p_value']:.3f} that chance makes it look like training images")
    else:
        lines.append(f"the set as a whole: not tested, which needs {FEWEST} images on either side")
    if replication := result["replication"]:
        lines.append(
            f"replication: top-1 similarity of {replication['generated']:,} generated images to {called['members']} "
            f"{replication['similarity']['mean']:.3f}, between {called['members']} {replication['background']['mean']:.3f}; "
            f"{_percent(replication['above_background'])} are closer than 95 % of the {called['members']} are, "
            f"from held-out captions {_percent(replication['control']['above_background'])}: {replication['verdict']}"
        )
    if prompts := result["memorised_prompts"]:
        lines.append(
            f"memorised prompts: {_percent(prompts['flagged'])} of {prompts['prompts']:,} {called['captions']} are "
            f"above a threshold that at most {percent(prompts['false_alarm_rate'])} of held-out ones are above"
        )
    if extraction := result["extraction"]:
        lines.append(
            f"extraction: {_count(extraction, '')} {called['captions']} "
            f"give their image away, {_count(extraction, 'heldout_')} held-out ones: {extraction['verdict']}"
        )
    return "\n".join([*lines, f"verdict: {result['verdict']}: {result['reason']}"])


def _cell(values: Mapping[str, float] | None) -> str:
    return "-" if values is None else f"{values['value']:.3f} [{values['low']:.3f}, {values['high']:.3f}]"


def _percent(share: Mapping[str, float]) -> str:
    return percent(share["value"])


def _count(extraction: Mapping[str, Any], side: str) -> str:
    of = extraction[f"{side}captions"]
    return f"{round(of * extraction[f'{side}extracted']['value']):,} of {of:,}"
