"""What votes say: strengths with intervals, how far voters agree, and how many votes are still needed.

    commonart vote --report votes.jsonl

Strengths are those of the Bradley-Terry model, P(a is preferred to b) = 1 / (1 + exp(b - a)), fitted by evalica (Newman's
iteration, JMLR 24, 2023). "Tie" and "both bad" are half a win for either side. Every pair of models gets one tie more
than was cast, half a win each way as in Jeffreys' prior of a proportion, so that a model that never lost has a strength.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import combinations
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commonart.core.errors import CommonArtError
from commonart.core.metrics import roc
from commonart.core.voting.votes import Vote

Floats = NDArray[np.float64]
ELO = 400 / math.log(10)  # points of one unit of log-odds: 100 points are 64 of 100 votes
PASS = 0.8  # share of attention checks that a voter must get right to be counted
RESAMPLES = 1000
FEWEST_SHARED = 10  # comparisons that two people judged, below which a bootstrap of their agreement says nothing
POWER = 0.8  # chance of telling two models apart by the votes that are called enough
CERTAIN = 1_000_000  # votes beyond which nobody counts


def report(votes: Sequence[Vote], *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Return what the votes of one study say.

    Neither the votes of one person nor those on one prompt are independent. So an interval is 1.96 standard errors wide on
    either side, whose square is the variance by a bootstrap of voters and that by one of prompts, less that by one of votes,
    which both contain (Cameron, Gelbach and Miller, "Robust inference with multiway clustering", 2011). One voter speaks
    for nobody else: then it is that of prompts alone.

    Returns:
        {"schema", "study", "votes", "voters", "comparisons", "left_out": [{"voter", "votes", "checks", "right"}],
        "unchecked": voters who met no attention check, "agreement": {"alpha", "low", "high", "comparisons"} or None,
        "models": [{"model", "strength", "low", "high", "wins", "losses", "ties", "both_bad"}] from the strongest,
        "pairs": [{"models", "preferred", "low", "high", "votes", "needed"}], "method", "resamples", "seed"}.
        `preferred` is the probability that the first is preferred; `needed` how many votes the study still needs to tell
        the two apart, None where more than a million would not do. `agreement` has no interval (None) where fewer than
        FEWEST_SHARED comparisons were shared, or all agreed.

    Raises:
        CommonArtError: evalica is not installed, or no vote of a voter who paid attention is left.
    """
    if find_spec("evalica") is None:
        what = "`commonart vote --report` needs evalica, which is not installed."
        raise CommonArtError(what, "Install it: uv sync --extra serve.")
    checks = _checks(votes)
    failed = {voter for voter, (right, count) in checks.items() if count and right < PASS * count}
    counted = [vote for vote in votes if not vote["check"] and vote["voter"] not in failed]
    left_out = [
        {"voter": voter, "votes": sum(vote["voter"] == voter and not vote["check"] for vote in votes), "checks": count,
         "right": right}
        for voter, (right, count) in sorted(checks.items()) if voter in failed
    ]  # fmt: skip
    if not counted and not failed:
        raise CommonArtError("The file holds attention checks alone.", "Let people vote on: commonart vote A/ B/.")
    if not counted:
        raise CommonArtError(
            f"No vote is left: {len(failed)} of {len(checks)} voters failed the attention checks.",
            "Ask more people to vote; each has to see the broken image in at least four of five checks.",
        )
    models = sorted({vote[side] for vote in counted for side in ("left", "right")})
    draws = _resampled(counted, models, resamples, seed)
    z = NormalDist().inv_cdf((1 + roc.LEVEL) / 2)
    strengths = _strengths(len(models), _cells(counted, models), np.ones(len(counted)))
    tallies = {model: _record(counted, model) for model in models}
    rows = []
    for number in sorted(range(len(models)), key=lambda number: -strengths[number]):
        strength, margin = float(strengths[number] * ELO), z * _standard_error(draws[:, :, number]) * ELO
        bounds = {"strength": strength, "low": strength - margin, "high": strength + margin}
        rows.append({"model": models[number], **bounds, **tallies[models[number]]})
    order = [models.index(row["model"]) for row in rows]
    pairs = [_pair(counted, models, a, b, strengths, draws) for a, b in combinations(order, 2)]
    return {
        "schema": 1, "study": counted[0]["study"], "votes": len(counted),
        "voters": len({vote["voter"] for vote in counted}), "comparisons": len({vote["comparison"] for vote in counted}),
        "left_out": left_out, "unchecked": sorted(voter for voter, (_, count) in checks.items() if not count),
        "agreement": _agreement(counted, seed), "models": rows, "pairs": pairs,
        "method": "Bradley-Terry, ties as half wins; two-way cluster bootstrap over voters and prompts",
        "resamples": resamples, "seed": seed,
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Return the report as text."""
    counts = f"{_count(result['votes'], 'vote')} by {_count(result['voters'], 'voter')} on "
    counts += _count(result["comparisons"], "comparison")
    lines = [f"study {result['study']}: {counts}; intervals hold 95 %"]
    for row in result["left_out"]:
        right = f"{row['right']} of {row['checks']} attention checks right"
        lines.append(f"left out: {row['voter']}, {right} ({_count(row['votes'], 'vote')})")
    if result["unchecked"]:
        lines.append(f"voters without an attention check, counted all the same: {len(result['unchecked']):,}")
    agreement = result["agreement"]
    if agreement is None:
        lines.append("agreement: not defined, as no two people judged the same pair, or all said the same")
    else:
        values = f"{agreement['alpha']:.2f}"
        if agreement["low"] is not None:
            values += f" [{agreement['low']:.2f}, {agreement['high']:.2f}]"
        elif agreement["comparisons"] < FEWEST_SHARED:
            values += f" (too few for an interval, which needs {FEWEST_SHARED})"
        else:
            values += " (no interval, as all agreed)"
        lines.append(f"agreement: Krippendorff's alpha {values} on {_count(agreement['comparisons'], 'comparison')}")
    width = max(len("model"), *(len(row["model"]) for row in result["models"]))
    lines += ["", f"{'model':<{width}}  {'strength (Elo)':<22} {'wins':>6} {'losses':>6} {'ties':>6} {'both bad':>8}"]
    for row in result["models"]:
        strength = f"{row['strength']:+.0f} [{row['low']:+.0f}, {row['high']:+.0f}]"
        tally = f"{row['wins']:>6,} {row['losses']:>6,} {row['ties']:>6,} {row['both_bad']:>8,}"
        lines.append(f"{row['model']:<{width}}  {strength:<22} {tally}")
    names = [" > ".join(pair["models"]) for pair in result["pairs"]]
    width = max(len("pair"), *map(len, names))
    lines += ["", f"{'pair':<{width}}  {'preferred':<22} {'votes':>6}  votes still needed to tell them apart"]
    for name, pair in zip(names, result["pairs"], strict=True):
        preferred = f"{100 * pair['preferred']:.0f} % [{100 * pair['low']:.0f}, {100 * pair['high']:.0f}]"
        needed = f"more than {CERTAIN:,}" if pair["needed"] is None else f"about {pair['needed']:,}"
        needed = "none: they are" if pair["needed"] == 0 else needed
        lines.append(f"{name:<{width}}  {preferred:<22} {pair['votes']:>6,}  {needed}")
    return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _checks(votes: Sequence[Vote]) -> dict[str, tuple[int, int]]:
    """Return (attention checks passed, attention checks) of every voter."""
    right, count = Counter[str](), Counter[str]()
    for vote in votes:
        count[vote["voter"]] += vote["check"]
        if vote["check"] and vote["vote"] in ("left", "right"):
            right[vote["voter"]] += vote[vote["vote"]] != "degraded"
    return {voter: (right[voter], count[voter]) for voter in {vote["voter"]: None for vote in votes}}


def _cells(votes: Sequence[Vote], models: Sequence[str]) -> NDArray[np.intp]:
    """Return the cell of each vote in a table [2, M, M]: wins of row over column; ties, row before column."""
    number = {model: i for i, model in enumerate(models)}
    cells = []
    for vote in votes:
        left, right = number[vote["left"]], number[vote["right"]]
        tie = vote["vote"] not in ("left", "right")
        swapped = left > right if tie else vote["vote"] == "right"
        row, column = (right, left) if swapped else (left, right)
        cells.append((tie * len(models) + row) * len(models) + column)
    return np.array(cells, dtype=np.intp)


def _strengths(count: int, cells: NDArray[np.intp], weights: Floats) -> Floats:
    """Fit the model to votes of given weights; return the log-odds strengths [count], whose mean is 0."""
    from evalica import Winner, bradley_terry

    wins, ties = np.bincount(cells, weights, 2 * count * count).reshape(2, count, count)
    rows = [(a, b, Winner.X, wins[a, b]) for a in range(count) for b in range(count) if a != b]
    rows += [(a, b, Winner.Draw, ties[a, b] + 1) for a, b in combinations(range(count), 2)]
    xs, ys, winners, each = (list(column) for column in zip(*rows, strict=True))
    fit = bradley_terry(xs, ys, winners, weights=each, tie_weight=0.5, tolerance=1e-8, limit=10_000)
    return np.log(fit.scores.sort_index().to_numpy(dtype=np.float64))


def _resampled(votes: Sequence[Vote], models: Sequence[str], resamples: int, seed: int) -> Floats:
    """Return the strengths [3, resamples, M] where voters, prompts or votes are drawn anew with replacement."""
    rng, cells = np.random.default_rng(seed), _cells(votes, models)
    found = []
    for names in (
        [vote["voter"] for vote in votes],
        [vote.get("prompt") or vote["comparison"] for vote in votes],
        list(map(str, range(len(votes)))),
    ):
        members, clusters = _numbered(names)
        for _ in range(resamples):
            counts = np.bincount(rng.integers(clusters, size=clusters), minlength=clusters)
            found.append(_strengths(len(models), cells, counts[members].astype(np.float64)))
    return np.array(found).reshape(3, resamples, len(models))


def _standard_error(draws: Floats) -> float:
    """Return the standard error of a value from its draws [3, resamples] by voter, by prompt and by vote."""
    by_voter, by_prompt, by_vote = draws.var(axis=1)
    return math.sqrt(max(by_voter + by_prompt - by_vote, by_voter, by_prompt))


def _numbered(names: Sequence[str]) -> tuple[NDArray[np.intp], int]:
    found, numbers = np.unique(np.array(names), return_inverse=True)
    return numbers, len(found)


def _record(votes: Sequence[Vote], model: str) -> dict[str, int]:
    counts = Counter[str]()
    for vote in votes:
        if model in (vote["left"], vote["right"]):
            side = "left" if vote["left"] == model else "right"
            counts["wins" if vote["vote"] == side else vote["vote"]] += 1
    losses = counts["left"] + counts["right"]
    return {"wins": counts["wins"], "losses": losses, "ties": counts["tie"], "both_bad": counts["both_bad"]}


def _pair(
    votes: Sequence[Vote], models: Sequence[str], a: int, b: int, strengths: Floats, draws: Floats
) -> dict[str, Any]:
    """Return what is known of one pair, a the stronger.

    `needed` is the sample size of a two-sided test at 5 % with a power of 80 % where the difference d is what was seen:
    n ((z(0.975) + z(0.8)) s / d)^2 votes in all, with n votes and the standard error s of d.
    """
    difference, error = float(strengths[a] - strengths[b]), _standard_error(draws[:, :, a] - draws[:, :, b])
    z = NormalDist().inv_cdf((1 + roc.LEVEL) / 2)
    low, high = difference - z * error, difference + z * error
    names = {models[a], models[b]}
    needed: int | None = 0
    if low <= 0 <= high:
        enough = len(votes) * ((z + NormalDist().inv_cdf(POWER)) * error / max(abs(difference), 1e-9)) ** 2
        needed = max(1, math.ceil(enough - len(votes))) if enough < CERTAIN else None
    low, value, high = (1 / (1 + math.exp(-x)) for x in (low, difference, high))
    count = sum({vote["left"], vote["right"]} == names for vote in votes)
    return {
        "models": [models[a], models[b]], "preferred": value, "low": low, "high": high, "votes": count, "needed": needed,
    }  # fmt: skip


def _agreement(votes: Sequence[Vote], seed: int) -> dict[str, Any] | None:
    """Return Krippendorff's alpha (nominal) of what voters preferred; None where it is not defined: without a comparison that two
    people judged, or where all said the same."""
    from evalica import alpha_bootstrap
    from pandas import DataFrame

    ratings: dict[str, dict[str, int]] = defaultdict(dict)
    for vote in votes:
        first = vote["left"] < vote["right"]  # sides differ from voter to voter
        code = {"left": 0 if first else 1, "right": 1 if first else 0, "tie": 2, "both_bad": 3}[vote["vote"]]
        ratings[vote["comparison"]][vote["voter"]] = code
    shared = {comparison: by_voter for comparison, by_voter in ratings.items() if len(by_voter) > 1}
    if len({code for by_voter in shared.values() for code in by_voter.values()}) < 2:
        return None
    found = alpha_bootstrap(DataFrame(shared), "nominal", n_resamples=RESAMPLES, random_state=seed)
    low, high = float(found.low), float(found.high)
    told = len(shared) >= FEWEST_SHARED and low < high  # all agreed: the bootstrap would call that certain
    bounds = {"low": low, "high": high} if told else {"low": None, "high": None}
    return {"alpha": float(found.alpha), **bounds, "comparisons": len(shared)}
