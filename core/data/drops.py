"""What becomes of a stage's records: samples, what is left out and why, and the counts of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from commonart.core.data.jsonl import SeenKeys
from commonart.core.data.record import Record, check, make_key
from commonart.core.errors import SchemaError


class Sample(NamedTuple):
    """A record with new pixels, from a stage that makes them: the encoded image and its file extension."""

    record: Record
    data: bytes
    ext: str


class Feature(NamedTuple):
    """What an encoder made of the record `key`: the bytes of one member of a shard, and its file extension."""

    key: str
    data: bytes
    ext: str


class Problem(NamedTuple):
    """Why a record is left out: `rule` by a rule of the stage, else because something failed."""

    reason: str
    detail: str
    rule: bool = False


class PassedOver(Record):
    """A place in a listing that gives no record to work on: a file that is not an image, a row that cannot be read.

    It travels among the records of a listing, in its place, so that it is counted once, in the shard that it belongs to, by
    a run that was interrupted and by tasks that share the work as well. `fetch` drops it before anything else.
    """

    __slots__ = ("problem",)

    def __init__(self, record: Record, reason: str, detail: str = "", *, rule: bool = True) -> None:
        super().__init__(record)
        self.problem = Problem(reason, detail, rule)

    @classmethod
    def named(cls, source: str, name: str, reason: str, detail: str = "", *, rule: bool = True) -> PassedOver:
        """Make one of which no record exists: `name` (a file, a row) is its `source_id`, and gives its key."""
        record = {"key": make_key(source, name), "source": source, "source_id": name}
        return cls(record, reason, detail, rule=rule)


def checked(record: Record, file: str, line: int | str, name: str) -> Record:
    """Return a record that fits the schema, and any other as `PassedOver`: the row `name` of its source."""
    try:
        return check(record, file, line)
    except SchemaError as error:
        problem = f"field {error.field!r} {error.problem}"
        return PassedOver.named(record["source"], name, "bad_row", problem, rule=False)


def mark_duplicate(record: Record, keys: SeenKeys, name: str, number: int) -> Record:
    """Return row `number` of `name`, as `PassedOver` (`duplicate_key`) where an earlier row has its key.

    The user cannot correct ten million rows of somebody else's table, and one row should not cost the others. Files of records
    stay strict (`core.data.jsonl`): they are ours, and a key that is there twice means that two runs were mixed up.
    """
    if isinstance(record, PassedOver):
        return record
    try:
        keys.add(record["key"], name, number)
    except SchemaError as error:
        return PassedOver(record, "duplicate_key", f"{error.file}:{number}: {error.problem}")
    return record


def mark_duplicates(records: Iterable[Record], name: str) -> Iterator[Record]:
    """Yield the records of one source, each as `mark_duplicate` returns it."""
    keys = SeenKeys()
    for number, record in enumerate(records, 1):
        yield mark_duplicate(record, keys, name, number)


class Drop:
    """Counts what a stage drops, by reason, and keeps it for `--rejects`."""

    def __init__(self, keep: Callable[[Record], None] | None = None) -> None:
        self.reasons: Counter[str] = Counter()
        self.missing_reasons: Counter[str] = Counter()
        self.captions_removed: Counter[str] = Counter()
        self.failures = 0
        self._keep = keep
        self._failed: Any = None  # the key of the record that failed last

    def __call__(self, record: Record, reason: str, detail: str = "") -> None:
        """Drop a record by rule: its licence, an opt-out, a duplicate, too small."""
        self.reasons[reason] += 1
        self._reject(record, reason, detail)

    def _reject(self, record: Record, reason: str, detail: str) -> None:
        if self._keep is not None:
            self._keep({**record, "reason": reason, **({"reason_detail": detail} if detail else {})})

    def failure(self, record: Record, reason: str, detail: str = "") -> None:
        """Drop a record because something went wrong; it counts against `--max-failures`."""
        self.failures += 1
        self._failed = record.get("key")
        self(record, reason, detail)

    def missing(self, record: Record, reason: str, detail: str = "") -> None:
        """Count a caption that was asked for and is not there, for `reason`. Its record may go on.

        However many captions it lacks, a record counts once against `--max-failures` and stands once in `--rejects`.
        """
        self.missing_reasons[reason] += 1
        if self._failed != record.get("key"):
            self.failures += 1
            self._failed = record.get("key")
            self._reject(record, reason, detail)

    def problem(self, record: Record, problem: Problem) -> None:
        """Drop a record by rule or as a failure, as its problem says."""
        (self if problem.rule else self.failure)(record, problem.reason, problem.detail)

    def listed(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield the records of a listing; what its source passed over is dropped."""
        for record in records:
            if isinstance(record, PassedOver):
                self.problem(record, record.problem)
            else:
                yield record

    def samples(self, results: Iterable[tuple[Record, Sample | Problem]]) -> Iterator[Sample]:
        """Yield the samples among `results`; each record with a problem is dropped."""
        for record, result in results:
            if isinstance(result, Sample):
                yield result
            else:
                self.problem(record, result)


Transform = Callable[[Iterable[Record], Drop], Iterator[Record | Sample | Feature]]


@dataclass(slots=True)
class Summary:
    """What a stage did; the last line of stderr, unless that is a terminal."""

    stage: str
    read: int = 0
    written: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    failures: int = 0
    seconds: float = 0.0
    missing: Counter[str] = field(default_factory=Counter, kw_only=True)  # captions that are not there
    captions_removed: Counter[str] = field(default_factory=Counter, kw_only=True)
    finished_before: int = field(
        default=0, kw_only=True
    )  # of `read`: records of shards that an earlier run has finished
    extra: Callable[[], dict[str, Any]] = field(default=dict, kw_only=True)  # what else the stage tells

    def as_json(self) -> dict[str, Any]:
        """Return the object that every stage prints: stage, in, out, dropped, seconds, and what else there is.

        What a stage tells beyond these is of this run's work: without the `finished_before` of the records in `in`.
        """
        return {
            "stage": self.stage,
            "in": self.read,
            "out": self.written,
            "dropped": dict(sorted(self.dropped.items())),
            **({"missing": dict(sorted(self.missing.items()))} if self.missing else {}),
            **({"finished_before": self.finished_before} if self.finished_before else {}),
            **self.extra(),
            "seconds": round(self.seconds, 3),
        }
