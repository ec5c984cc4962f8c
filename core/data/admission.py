"""What may be trained on: records by their licence and a blocklist, captions by their makers' terms.

    judge = Judge(Rules(policy=load_policy("strict"))); judge.works[judge.work(record)].reason    # "license_unknown", or ""

The rules are those of license-filter (core/licenses/policies.py, core/data/caption_terms.py). Statements that are alike are judged
once: millions of records hold a few dozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from commonart.core.data import caption_terms
from commonart.core.data.blocklist import Blocklist, read_blocklist
from commonart.core.data.record import Caption, Record, captions
from commonart.core.licenses.policies import POLICIES, Policy, load_policy

CACHED = 65536  # verdicts; real data need a few dozen
BLOCKLISTED = "blocklisted"
UNSEEN = (BLOCKLISTED, "no_text_features", "no_latents")  # why training leaves records out that do not show it
DEFAULT_POLICY = "paper"  # the widest of the built-in ones


@dataclass(frozen=True, slots=True)
class Rules:
    """What training asks of its data."""

    policy: Policy = POLICIES[DEFAULT_POLICY]
    blocklist: Blocklist | None = None
    accepted: tuple[str, ...] = ()  # models whose terms the user answers for
    skip: bool = False  # what the policy refuses is left out and counted; else it is an error

    @classmethod
    def load(
        cls, policy: str = DEFAULT_POLICY, blocklist: str = "", accepted: Sequence[str] = (), skip: bool = False
    ) -> Rules:
        """Read the rules as the command line gives them. Raises as `load_policy` and `read_blocklist`."""
        return cls(load_policy(policy), read_blocklist(blocklist) if blocklist else None, tuple(accepted), skip)

    @classmethod
    def described(cls, said: Mapping[str, Any]) -> Rules:
        """Return the rules that `describe` wrote down, but for their blocklist, of which it keeps the hash alone; `skip` is set."""
        allowed = dict.fromkeys(said.get("allowed", ()), "as run.json says")
        policy = Policy(said.get("name", ""), allowed, frozenset(said.get("denied", ())))
        return cls(policy, accepted=tuple(said.get("accepted", ())), skip=True)

    def describe(self) -> dict[str, Any]:
        """Return what run.json keeps of them."""
        policy = self.policy
        return {
            "name": policy.name, "sha256": policy.sha256, "allowed": sorted(policy.allowed), "denied": sorted(policy.denied),
            "blocklist": self.blocklist.sha256 if self.blocklist else None, "accepted": sorted(self.accepted),
        }  # fmt: skip


class Work(NamedTuple):
    """What records have in common, as far as training cares."""

    source: str
    license: str  # under which the policy takes it
    reason: str  # why it is not trained on, or ""
    missing: tuple[str, ...]  # of MISSING, what it does not say


class Kind(NamedTuple):
    """What captions have in common."""

    lang: str
    length: str
    model: str  # who wrote it; of a translation "TRANSLATOR of ORIGINAL"
    revision: str
    license: str
    reason: str  # why it is left out, or ""
    accepted: str = ""  # the model whose terms only the user answers for


MISSING = ("source", "author", "address", "sha256")  # address: source_url, or image_url where there is none
_CAPTION = (
    "model", "license", "translated_from", "synthetic", "terms_accepted", "revision", "lang", "length", "endpoint_model",
)  # fmt: skip


class Judge:
    """Judges records and captions, and numbers what they have in common: `works` and `kinds`, by number."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.works: list[Work] = []
        self.kinds: list[Kind] = []
        self._work_codes: dict[Work, int] = {}
        self._kind_codes: dict[Kind, int] = {}
        self._works: dict[tuple[Any, ...], int] = {}
        self._captions: dict[tuple[Any, ...], list[int]] = {}

    def work(self, record: Record) -> int:
        """Return the number of a record's `Work`."""
        get = record.get
        key = (
            get("source"), get("license_url"), get("license_raw"), get("license"),
            not get("author"), not (get("source_url") or get("image_url")), not get("sha256"),
        )  # fmt: skip
        code = self._works.get(key)
        if code is None:
            code = self._work_code(self._judged(key))
            if len(self._works) >= CACHED:
                self._works.clear()
            self._works[key] = code
        if self.rules.blocklist is not None and self.rules.blocklist.entry_of(record):
            code = self._work_code(self.works[code]._replace(reason=BLOCKLISTED))
        return code

    def _judged(self, key: tuple[Any, ...]) -> Work:
        source, *statements = ((text or "").strip() for text in key[:4])
        _, chosen, reason = self.rules.policy.judge(*statements)
        missing = tuple(name for name, gone in zip(MISSING, (not source, *key[4:]), strict=True) if gone)
        return Work(source, chosen.id if chosen else "", reason, missing)

    def _work_code(self, work: Work) -> int:
        if (code := self._work_codes.setdefault(work, len(self.works))) == len(self.works):
            self.works.append(work)
        return code

    def captions(self, captions: Sequence[Caption]) -> list[int]:
        """Return the numbers of the `Kind` of each of a record's captions."""
        try:
            # Written out: every call counts, for each caption of millions.
            key = tuple([
                (said("model"), said("license"), said("translated_from"), said("synthetic"), said("terms_accepted"),
                 said("revision"), said("lang"), said("length"), said("endpoint_model"))
                for said in [caption.get for caption in captions]
            ])  # fmt: skip
            codes = self._captions.get(key)
        except TypeError:  # a list in place of a name
            return self.captions([{name: _plain(caption.get(name)) for name in _CAPTION} for caption in captions])
        if codes is None:
            alike = [dict(zip(_CAPTION, values, strict=True)) for values in key]
            reasons = caption_terms.problems(alike, self.rules.policy, self.rules.accepted)
            codes = [self.kind_code(self._kind(c, reason)) for c, reason in zip(alike, reasons, strict=True)]
            if len(self._captions) >= CACHED:
                self._captions.clear()
            self._captions[key] = codes
        return codes

    def kind_code(self, kind: Kind) -> int:
        """Return the number of a kind, a new one where there was none like it."""
        if (code := self._kind_codes.setdefault(kind, len(self.kinds))) == len(self.kinds):
            self.kinds.append(kind)
        return code

    def _kind(self, said: Mapping[str, Any], reason: str) -> Kind:
        writer, origin = str(said["model"] or ""), str(said["translated_from"] or "").partition("#")[0]
        served = str(said["endpoint_model"] or "")
        answered = [name for name in (writer, origin, served) if name in self.rules.accepted]
        answered += [writer] if said["terms_accepted"] is True else []
        lang, length, revision, license = (str(said[name] or "") for name in ("lang", "length", "revision", "license"))
        model = f"{writer} of {origin}" if origin else writer
        return Kind(lang, length, model, revision, license, reason, next(iter(answered), ""))


def usable_captions(record: Record, judge: Judge, run: Mapping[str, Any]) -> list[bool]:
    """Return which of a record's captions a run could take, as `training_index` decides it; none where its licence kept it out.

    Args:
        judge: one by the run's policy, `Rules.described`.
        run: the content of run.json.
    """
    texts = captions(record)
    if judge.works[judge.work(record)].reason:
        return [False] * len(texts)
    kinds = [judge.kinds[number] for number in judge.captions(texts)]
    languages, lengths = run.get("languages") or {}, run.get("lengths") or {}
    fine = [not kind.reason and (not languages or languages.get(kind.lang, 0) > 0) for kind in kinds]
    if "captioner" in run:  # as `training.caption_data.refine`: only what it can be asked for
        asked = {prompt[0] for prompt in run.get("prompts", ())}
        fine = [
            ok and kind.lang in asked and bool(caption["text"].strip())
            for ok, kind, caption in zip(fine, kinds, texts, strict=True)
        ]
    if any(fine) and lengths:
        # As `Index.caption_odds`: among an image's captions (of one language, where they are weighed) those of an asked length.
        groups = [kind.lang if languages else "" for kind in kinds]
        fits = [ok and lengths.get(kind.length, 0) > 0 for ok, kind in zip(fine, kinds, strict=True)]
        having = {group for group, yes in zip(groups, fits, strict=True) if yes}
        fine = [yes if group in having else ok for ok, yes, group in zip(fine, fits, groups, strict=True)]
    return fine


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | bool | None) else str(value)
