"""A run.json that contradicts itself, its curves, or its transformer is found out without the run, and so is one of wrong types."""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from commonart.core.data.files import write_json
from commonart.core.errors import CommonArtError
from commonart.core.report import card, plausible, shape, verify
from commonart.core.report.facts import Facts, ReportInputs, gather

Run = dict[str, Any]


@pytest.fixture
def run(facts: Facts) -> Run:
    return copy.deepcopy(facts.run) or {}


def test_a_true_run_contradicts_nothing(facts: Facts, run: Run) -> None:
    assert plausible.of_cost(run, facts.curves) == [] == plausible.of_transformer(run, facts.curves)
    devices = [{**run["compute"]["devices"][0], "watts": 700.0, "count": 8}]
    run["compute"] |= {"devices": devices, "energy_kwh": 700 * 8 * devices[0]["seconds"] / 3.6e6}
    assert plausible.of_cost(run, facts.curves) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"step": 3}, "3 steps of 8 images are 24, and it says 48; its curves reach step 6, and it says 3"),
        ({"images": 47}, "6 steps of 8 images are 48, and it says 47"),
        ({"seconds": -5.0}, "its curves last"),
        ({"seconds": 9999.0}, "its devices worked for other than 9,999 seconds"),
        ({"energy_kwh": 1e-6}, "watts times seconds are None kWh, and it says 1e-06"),
        ({"flops": 1e3}, "48 images take"),
        ({"flops": 1e12}, "48 images take"),
    ],
)
def test_a_forged_cost_is_named(facts: Facts, run: Run, change: dict[str, Any], why: str) -> None:
    run["compute"] |= change
    assert why in "; ".join([*plausible.of_cost(run, facts.curves), *plausible.of_transformer(run, facts.curves)])


def test_a_forged_transformer_and_forged_curves_are_named(facts: Facts, run: Run) -> None:
    rows = [{**row, "images": 5} if "images" in row else row for row in facts.curves]
    assert plausible.of_cost(run, rows) == ["its curves have other images at step 2 than steps times batch"]
    run["transformer"]["parameters"] = 5
    assert "parameters, and it says 5" in plausible.of_transformer(run, facts.curves)[0]
    run["transformer"]["num_layers"] = 2
    assert plausible.of_transformer(run, facts.curves)[0] == "its transformer is not that of its recipe"
    run["recipe"]["unknown"] = 1
    assert plausible.of_transformer(run, facts.curves)[0].startswith("its recipe and transformer cannot be read: ")


def test_a_card_whose_cost_was_forged_does_not_hold_and_none_is_written(
    made: Path, facts: Facts, tmp_path: Path
) -> None:
    card.write(facts, tmp_path / "card")
    said = orjson.loads((tmp_path / "card" / "report.json").read_bytes())
    said["run"]["compute"] |= {"step": 2, "images": 16, "flops": 1e3}
    said["run"]["transformer"]["parameters"] = 5
    inputs = ReportInputs(said["name"], said["run"], said["curves"], None, None, said["run_sha256"])
    said["kept_sha256"] = card.kept_sha256(inputs, said["made_with"])
    write_json(tmp_path / "card" / "report.json", said)
    wrong = {
        claim.what: claim.detail
        for claim in verify.check(tmp_path / "card", [made / "shards"], None)
        if claim.holds is False
    }
    assert (
        "curves reach step 6" in wrong["steps, images, hours and energy of run.json agree with its recipe and curves"]
    )
    assert "it says 5" in wrong["parameters and FLOP of run.json are those of its transformer"]
    shutil.copytree(made / "runs" / "tiny", tmp_path / "tiny")
    whole = orjson.loads((tmp_path / "tiny" / "run.json").read_bytes())
    write_json(tmp_path / "tiny" / "run.json", {**whole, "compute": {**whole["compute"], "flops": 1e3}})
    with pytest.raises(CommonArtError, match=r"run\.json contradicts itself: 48 images take"):
        gather(tmp_path / "tiny", made / "shards")


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value inside JSON."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in entries:
        yield (*at, name)
        yield from places(each, (*at, name))


def put(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    value = copy.deepcopy(value)
    inner = value
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = new
    return value


ODD = (3, "many", None, [], {}, [3], {"x": [3]}, True, -0.5)


@pytest.fixture
def refuses(made: Path, tmp_path: Path) -> Callable[[Any], str]:
    shutil.copytree(made / "runs" / "tiny", tmp_path / "tiny")

    def why(value: Any) -> str:
        write_json(tmp_path / "tiny" / "run.json", value)
        with pytest.raises(CommonArtError) as told:
            gather(tmp_path / "tiny", made / "shards")
        return told.value.what

    return why


def test_a_damaged_run_json_is_a_sentence(run: Run, refuses: Callable[[Any], str]) -> None:
    assert refuses(put(run, ("data", "policy"), 3)).endswith("run.json is damaged: data.policy is not an object.")
    assert refuses(put(run, ("compute", "flops"), "many")).endswith(
        "run.json is damaged: compute.flops is not a number."
    )
    assert refuses(put(run, ("compute", "ended"), "today")).endswith(
        "compute.ended is not what commonart writes there."
    )
    assert refuses(put(run, ("compute", "seconds"), None)).endswith("compute.seconds is not a number.")
    assert refuses(put(run, ("history", 0, "in"), "x")).endswith("history[0].in is not a whole number.")
    assert refuses(put(run, ("data", "left_out_keys"), {"blocklisted": ["x"]})).endswith(
        "is not what commonart writes there."
    )
    assert refuses(put(run, ("compute",), 3)).endswith("run.json is damaged: compute is not an object.")
    history = put(run["history"], (0, "inputs", 0, "settings", "allowed"), [3])
    assert refuses({**run, "history": history}).endswith("history[0].inputs[0].settings.allowed[0] is not a text.")
    del run["data"]["policy"]["allowed"]
    assert refuses(run).endswith("run.json is damaged: data.policy.allowed is missing.")


def test_whatever_is_wrong_in_run_json_no_traceback_is_printed(
    run: Run, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from commonart.core.output import plot

    monkeypatch.setattr(plot, "bars", lambda *_: "<svg></svg>")  # of the records alone, and slow
    shutil.copytree(made / "runs" / "tiny", tmp_path / "tiny")
    rng, refused = random.Random(0), 0
    asked = [(place, odd) for place in places(run) for odd in ODD]
    for place, odd in rng.sample(asked, 60):
        value = put(run, place, odd)
        write_json(tmp_path / "tiny" / "run.json", value)
        try:
            card.write(gather(tmp_path / "tiny", made / "shards"), tmp_path / "card", certify=True)
        except CommonArtError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"{place} {odd!r}") from error
    assert refused > 30


def test_a_damaged_note_beside_shards_is_a_sentence(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "shards", tmp_path / "shards")
    note = orjson.loads((tmp_path / "shards" / "note.json").read_bytes())
    write_json(tmp_path / "shards" / "note.json", put(note, ("inputs", 0, "in"), "many"))
    with pytest.raises(
        CommonArtError, match=r"shards is damaged: note\.json\[0\]\.inputs\[0\]\.in is not a whole number\."
    ):
        gather(None, tmp_path / "shards")


def test_shapes() -> None:
    asked = {"a": int, "b?": (float, None), "c?": [str], "*": bool}
    assert shape.wrong({"a": 1, "b": None, "c": ["x"], "d": True}, asked) == []
    assert shape.wrong({"a": 1, "b": 2}, asked) == []
    assert shape.wrong({"b": "x", "c": [1], "d": 1}, asked) == [
        "a is missing", "b is not a number", "c[0] is not a text", "d is not true or false",
    ]  # fmt: skip
    assert shape.wrong({"a": True}, asked) == ["a is not a whole number"] and shape.wrong(3, asked) == [
        "it is not an object"
    ]
