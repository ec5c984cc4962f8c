"""What votes say: strengths, intervals, agreement, and the votes still needed, against known answers and simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from commonart.core.errors import CommonArtError
from commonart.core.voting.report import ELO, report, table

pytest.importorskip("evalica")


def vote(voter: str, number: int, left: str, right: str, choice: str, check: bool = False) -> dict[str, Any]:
    comparison = f"check-{number}" if check else f"{min(left, right)}{max(left, right)}{number}"
    return {
        "study": "s1", "voter": voter, "comparison": comparison, "prompt": f"p{number}", "left": left, "right": right,
        "vote": choice, "check": check,
    }  # fmt: skip


def cast(outcomes: dict[str, int], a: str = "a", b: str = "b", voter: str = "ann") -> list[dict[str, Any]]:
    """Votes of one voter with so many outcomes: the winner's name, tie or both_bad; every second with sides changed."""
    votes = []
    for outcome in [name for name, count in outcomes.items() for _ in range(count)]:
        left, right = (a, b) if len(votes) % 2 else (b, a)
        choice = {left: "left", right: "right"}.get(outcome, outcome)
        votes.append(vote(voter, len(votes), left, right, choice))
    return votes


def simulate(
    rng: np.random.Generator, prompts: int, voters: int, difference: float, spread: float = 0.0
) -> list[dict[str, Any]]:
    """Votes with a known preference for a: its log-odds, which differ by voter and by prompt; a fifth are ties."""
    by_prompt, by_voter = rng.normal(0, spread, prompts), rng.normal(0, spread, voters)
    votes = []
    for voter in range(voters):
        for number in range(prompts):
            better = rng.random() < 1 / (1 + math.exp(-difference - by_prompt[number] - by_voter[voter]))
            left, right = ("a", "b") if rng.random() < 0.5 else ("b", "a")
            choice = "tie" if rng.random() < 0.2 else "left" if better == (left == "a") else "right"
            votes.append(vote(f"v{voter}", number, left, right, choice))
    return votes


def test_strengths_of_two_models_are_the_log_odds_of_their_wins():
    result = report(cast({"a": 30, "b": 10, "tie": 4, "both_bad": 2}), resamples=50)
    # Half of the six ties and of the one that is added: 33.5 wins to 13.5.
    (pair,) = result["pairs"]
    assert pair["models"] == ["a", "b"] and pair["preferred"] == pytest.approx(33.5 / 47)
    first, second = result["models"]
    assert first["strength"] - second["strength"] == pytest.approx(400 * math.log10(33.5 / 13.5))
    assert first["strength"] + second["strength"] == pytest.approx(0)
    assert {k: first[k] for k in ("model", "wins", "losses", "ties", "both_bad")} == {
        "model": "a", "wins": 30, "losses": 10, "ties": 4, "both_bad": 2,
    }  # fmt: skip
    assert second["wins"] == 10 and second["losses"] == 30 and result["votes"] == 46


def test_strengths_of_three_models_solve_the_likelihood_equations():
    votes = cast({"a": 12, "b": 5}) + cast({"b": 9, "c": 7, "tie": 2}, "b", "c") + cast({"a": 14, "c": 3}, "a", "c")
    rows = {row["model"]: row["strength"] / ELO for row in report(votes, resamples=20)["models"]}
    # At the maximum, the expected wins are the wins (Bradley and Terry 1952), ties and prior as half wins.
    games = {("a", "b"): (12.5, 5.5), ("b", "c"): (10.5, 8.5), ("a", "c"): (14.5, 3.5)}
    for model in "abc":
        won = sum(w if pair[0] == model else v for pair, (w, v) in games.items() if model in pair)
        expected = sum(
            (w + v) / (1 + math.exp(rows[pair[1] if pair[0] == model else pair[0]] - rows[model]))
            for pair, (w, v) in games.items()
            if model in pair
        )
        assert won == pytest.approx(expected, abs=1e-4)


def test_a_model_that_never_lost_has_a_strength_and_an_interval():
    (pair,) = report(cast({"a": 12}), resamples=100)["pairs"]
    assert pair["preferred"] == pytest.approx(12.5 / 13) and pair["low"] > 0.5 and pair["needed"] == 0


def test_agreement_is_krippendorffs_alpha():
    """Four observers and twelve units, as in Krippendorff's "Computing Krippendorff's Alpha-Reliability" (2011)."""
    data = [
        "1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 .",
    ]  # fmt: skip
    codes = {"1": "left", "2": "right", "3": "tie", "4": "both_bad"}
    votes = [
        vote(f"v{row}", unit, "a", "b", codes[code])
        for row, line in enumerate(data)
        for unit, code in enumerate(line.split())
        if code in codes
    ]
    found = report(votes, resamples=20)["agreement"]
    # Two units are left out: the tenth, whose code 5 no vote has, and the twelfth, which one observer saw.
    assert found["comparisons"] == 10 and found["alpha"] == pytest.approx(_alpha(data, "1234"))
    assert found["low"] <= found["alpha"] <= found["high"] <= 1
    assert report(cast({"a": 5}), resamples=20)["agreement"] is None


def _alpha(lines: list[str], codes: str) -> float:
    """1 - (n - 1) (n - sum of o_cc) / (n^2 - sum of n_c^2), section C of the same paper."""
    units = [[c for c in unit if c in codes] for unit in zip(*(line.split() for line in lines), strict=True)]
    units = [unit for unit in units if len(unit) > 1]
    totals = {c: sum(unit.count(c) for unit in units) for c in codes}
    n = sum(totals.values())
    agree = sum(unit.count(c) * (unit.count(c) - 1) / (len(unit) - 1) for unit in units for c in codes)
    return 1 - (n - 1) * (n - agree) / (n**2 - sum(t**2 for t in totals.values()))


def test_voters_agree_whatever_side_they_saw():
    votes = [vote("ann", i, "a", "b", "left" if i % 2 else "right") for i in range(20)]
    votes += [vote("bob", i, "b", "a", "right" if i % 2 else "left") for i in range(20)]
    assert report(votes, resamples=20)["agreement"]["alpha"] == pytest.approx(1)


def test_who_fails_attention_checks_is_left_out_and_counted():
    votes = cast({"a": 20}) + cast({"b": 30}, voter="bob") + cast({"a": 5}, voter="eve")
    votes += [vote("ann", i, "a", "degraded", "left", check=True) for i in range(4)]
    votes += [vote("ann", 4, "degraded", "b", "tie", check=True)]
    votes += [vote("bob", i, "degraded", "b", "left" if i else "right", check=True) for i in range(3)]
    result = report(votes, resamples=50)
    assert result["left_out"] == [{"voter": "bob", "votes": 30, "checks": 3, "right": 1}]
    assert result["unchecked"] == ["eve"] and result["votes"] == 25 and result["pairs"][0]["models"] == ["a", "b"]
    text = table(result)
    assert "left out: bob, 1 of 3 attention checks right (30 votes)" in text
    assert "without an attention check, counted all the same: 1" in text
    with pytest.raises(CommonArtError, match="No vote is left: 1 of 1 voters failed"):
        report([v for v in votes if v["voter"] == "bob"], resamples=20)


def test_checks_alone_say_nothing():
    with pytest.raises(CommonArtError, match="holds attention checks alone"):
        report([vote("ann", 0, "a", "degraded", "left", check=True)])


def test_the_votes_that_are_called_enough_tell_two_models_apart_four_times_in_five():
    """The number for a known difference; then as many simulated votes, again and again: 80 % of the studies tell them apart."""
    rng = np.random.default_rng(1)
    difference = 0.5
    start = cast({"a": 250, "b": 152, "tie": 98})  # odds of exp(0.5) among the decided, a fifth ties
    small = [v for i, v in enumerate(start) if i % 10 == 0]
    (pair,) = report(small, resamples=400)["pairs"]
    enough = len(small) + pair["needed"]
    assert 120 < enough < 300  # ((1.96 + 0.84) s / d)^2 with s = sqrt(0.8 * 0.25) and d = 0.8 (0.622 - 0.5): 164
    apart = 0
    for _ in range(60):
        (found,) = report(simulate(rng, 164, 1, difference), resamples=70)["pairs"]
        apart += found["needed"] == 0
    assert 0.65 <= apart / 60 <= 0.93


@pytest.mark.parametrize("spread", [0.0, 0.6])
def test_intervals_cover_the_truth_whether_or_not_votes_hang_together(spread):
    """Eight voters on 25 prompts, without any difference: 95 % of the intervals hold it, and are no wider than that needs."""
    rng = np.random.default_rng(2)
    studies, covered, widths, estimates = 60, 0, [], []
    for number in range(studies):
        (pair,) = report(simulate(rng, 25, 8, 0.0, spread), resamples=60, seed=number)["pairs"]
        covered += pair["low"] <= 0.5 <= pair["high"]
        sign = 1 if pair["models"][0] == "a" else -1
        estimates.append(sign * math.log(pair["preferred"] / (1 - pair["preferred"])))
        widths.append(math.log(pair["high"] / (1 - pair["high"])) - math.log(pair["low"] / (1 - pair["low"])))
    assert covered >= 0.88 * studies
    assert 0.75 < np.mean(widths) / (2 * 1.96 * np.std(estimates)) < 1.3


def test_the_table_says_what_is_missing():
    text = table(report(cast({"a": 20, "b": 20}), resamples=100))
    assert "more than 1,000,000" in text and "not defined, as no two people" in text
    assert "none: they are" in table(report(cast({"a": 60, "b": 10}), resamples=100))


def test_few_votes_are_not_called_certain():
    def both(count: int) -> list[dict[str, Any]]:
        """Two voters, who agree on all but the first pair."""
        votes = [vote("ann", i, "a", "b", "left" if i % 2 else "right") for i in range(count)]
        return votes + [vote("bob", i, "a", "b", "left" if i % 2 or not i else "right") for i in range(count)]

    few, many = report(both(4), resamples=20), report(both(30), resamples=20)
    assert few["agreement"]["low"] is None and "(too few for an interval, which needs 10) on 4 comparisons" in table(
        few
    )
    assert many["agreement"]["low"] < many["agreement"]["alpha"] < many["agreement"]["high"]
    agreed = report([v for v in both(30) if v["comparison"] != "ab0"], resamples=20)
    assert agreed["agreement"]["low"] is None and "alpha 1.00 (no interval, as all agreed)" in table(agreed)
    one = table(report([vote("ann", 0, "a", "b", "left")], resamples=20))
    assert "1 vote by 1 voter on 1 comparison;" in one
