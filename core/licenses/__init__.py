"""Licences: what a source said about rights, turned into one identifier, and what a policy allows.

    commonart license-filter --policy strict raw/ -o kept.jsonl

`table` holds the names, `parse` reads them, `policies` decides. No torch, no Pillow, no network.
"""

from commonart.core.licenses.parse import flickr, judge, normalise
from commonart.core.licenses.policies import POLICIES, Policy, load_policy
from commonart.core.licenses.table import License

__all__ = ["POLICIES", "License", "Policy", "flickr", "judge", "load_policy", "normalise"]
