"""Which captions may be trained on: by the terms of the models that wrote them, and by their own licences.

    commonart license-filter raw/    # "captions_removed": {"caption_of_refused_model:blip2-opt": 12} in its summary

A caption of a person that states no licence came with the work and goes with it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from commonart.core.data.record import Caption
from commonart.core.licenses.parse import normalize
from commonart.core.licenses.policies import Policy
from commonart.core.registry.catalogue import MODELS, WRITES, Model
from commonart.core.registry.lookup import OPEN

RULES = "scenes-grammar"  # writes captions by rule: no model, no terms
# Services whose terms forbid training on what they write, under whichever version or address.
_CLOSED = re.compile(
    r"(?:[\w.-]+/)?(?:(?:chat)?gpt-?\d|chatgpt|dall-?e|o[134](?:-|$)|gemini|bard$|palm|claude)", re.IGNORECASE
)
# Licences of models and data that lay no claim on captions; Creative Commons' are the policy's to judge.
_FREE = frozenset(name for name in OPEN.values() if not name.startswith("CC")) | {
    "CDLA-Permissive-1.0",
    "CDLA-Permissive-2.0",
}
_CACHED = 65536  # verdicts; real data needs a few dozen


@cache
def writer(name: str) -> Model | None:
    """Return the registry's row of a model that a caption names by its name or hub id, with a revision or without."""
    plain = name.partition("@")[0]
    return next((row for row in MODELS if row.role in WRITES and plain and plain in (row.name, row.hub)), None)


def is_closed_service(name: str) -> bool:
    """Return whether a name is that of a service whose terms forbid training on what it writes."""
    return _CLOSED.match(name) is not None


def terms_of(name: str) -> str | None:
    """Return the registry's word for the terms on what a model writes; of "TRANSLATOR of ORIGINAL" both; None: not known."""
    rows = [writer(each) for each in name.split(" of ")]
    return " of ".join(row.outputs for row in rows if row) if all(rows) else None


def is_generated(name: str, stated: Any) -> bool | None:
    """Return whether a model wrote a caption; None where the records do not state it.

    Args:
        name: of its model or people; that of a known model decides.
        stated: its field `synthetic`.
    """
    if writer(name) is not None or is_closed_service(name):
        return True
    return stated if isinstance(stated, bool) else (True if name else None)


def maker_problem(name: str) -> str:
    """Return why the terms of a model do not allow training on its captions, or "": caption_of_refused_model:NAME."""
    row = writer(name)
    return f"caption_of_refused_model:{name}" if is_closed_service(name) or (row is not None and row.refused) else ""


def problem(caption: Caption, policy: Policy, accepted: Sequence[str] = ()) -> str:
    """Return why a caption is removed: caption_of_refused_model, caption_of_unknown_model, caption_license_not_allowed; or "".

    Args:
        policy: must allow the caption's licence, where that is not the free one of its model.
        accepted: models whose terms the user answers for, beside those that captions say (`terms_accepted`).
    """
    name, license = str(caption.get("model") or ""), str(caption.get("license") or "")
    served = str(caption.get("endpoint_model") or "")  # what a server ran under its own name for the model
    if caption.get("terms_accepted") is True:
        return ""
    if served not in accepted and (reason := maker_problem(served)):
        return reason
    if name in accepted:
        return ""
    if reason := maker_problem(name) or maker_problem(str(caption.get("translated_from") or "").partition("#")[0]):
        return reason
    row = writer(name)
    # A folder that `caption` was given: it names an open licence, or the user answered for it.
    local = bool(name) and str(caption.get("revision") or "").startswith("sha256:") and license in OPEN.values()
    if row is None and name != RULES and not local and caption.get("synthetic", bool(name)):
        return f"caption_of_unknown_model:{name or 'none'}"
    free = not license or license in _FREE or (row is not None and license == row.license)
    return "" if free or policy.allows(normalize(license)) else f"caption_license_not_allowed:{license}"


def problems(captions: Sequence[Caption], policy: Policy, accepted: Sequence[str] = ()) -> list[str]:
    """Return `problem` of each of a record's captions; with a caption go its translations.

    A translation whose original is not there is judged by what its name says: nobody knows under which licence a person wrote.
    """
    reasons = [problem(caption, policy, accepted) for caption in captions]
    originals: dict[str, str] = {}
    for caption, reason in zip(captions, reasons, strict=True):
        if not caption.get("translated_from"):
            name = str(caption.get("model") or "source")
            originals[name] = originals.get(name) or reason
    for number, caption in enumerate(captions):
        # As `stages.translate.origins` names it: the model, #2 for its second.
        name = str(caption.get("translated_from") or "").partition("#")[0]
        if name and not reasons[number]:
            gone = name not in originals
            reasons[number] = problem({"model": name, "synthetic": True}, policy, accepted) if gone else originals[name]
    return reasons


MAKING = ("model", "license", "translated_from", "synthetic", "endpoint_model")


class CaptionJudge:
    """Removes captions from records and counts them by reason; those that say the same of their making are judged once."""

    def __init__(self, policy: Policy, accepted: Sequence[str] = ()) -> None:
        self.policy, self.accepted = policy, accepted
        self.removed: Counter[str] = Counter()
        self.fine: set[tuple[Any, ...]] = set()  # the values of MAKING of captions that are kept whatever else they say

    def kept(self, captions: Sequence[Caption]) -> list[Caption]:
        """Return the captions that may be used, in their order; with a caption go its translations."""
        if len(self.fine) >= _CACHED:
            self.fine.clear()
        kept = []
        for caption, reason in zip(captions, problems(captions, self.policy, self.accepted), strict=True):
            if reason:
                self.removed[reason] += 1
                continue
            kept.append(caption)
            making = {name: caption.get(name) for name in MAKING}
            plain = all(isinstance(value, str | bool | None) for value in making.values())
            if plain and not any(problems([making], self.policy)):
                self.fine.add(tuple(making.values()))
        return kept
