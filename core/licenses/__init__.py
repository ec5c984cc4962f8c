"""Licences: what a source said about rights, turned into one identifier, and what a policy allows.

    commonart license-filter --policy strict raw/ -o kept.jsonl

`creative_commons` and `table` hold the names; `parse`, `urls` and `expressions` read one string; `sources` reads what is
more than one; `policies` decides. No torch, no Pillow, no network.
"""

from commonart.core.licenses.license import License
from commonart.core.licenses.parse import normalise
from commonart.core.licenses.policies import POLICIES, Policy, load_policy
from commonart.core.licenses.statements import flickr, judge, stated_in

__all__ = [
    "POLICIES", "License", "Policy", "flickr", "judge", "load_policy", "normalise", "stated_in",
]  # fmt: skip
