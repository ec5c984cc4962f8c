"""The whole chain on the embedded default: `commonart quickstart`.

Every step is a command line, printed and then run in this process by the function that the shell would start, so that
what a newcomer reads is what happened. What is finished is noted in `steps.json`; the same call goes on from there.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from commonart.core import log
from commonart.core.data import jsonl, stream
from commonart.core.data.files import write_bytes, write_json
from commonart.core.data.shards.manifest import read_manifest
from commonart.core.data.shards.reader import list_shards
from commonart.core.errors import CommonArtError
from commonart.core.output.html import Page

# The same scenes in both languages, side by side in the grid.
PROMPTS = (
    ("a large red circle in the centre on grassland", "草原の真ん中にある大きな赤い丸"),
    ("a large blue star in the top left in the desert", "砂漠の左上にある大きな青い星"),
    ("a medium yellow ring in the bottom right in the night sky", "夜空の右下にある中くらいの黄色い輪"),
    ("a large green square on the right, in the snow", "雪原の右にある大きな緑の四角"),
    ("a medium purple triangle in the top right on the sea", "海の右上にある中くらいの紫の三角"),
    ("a large orange cross in the bottom left on grassland", "草原の左下にある大きなオレンジの十字"),
)
FACTS = ("color", "shape", "background", "place")
# A quarter of the tokens, half of the layers, a third wider: three times the steps in the same seconds, each of which
# teaches as much. Measured beside 4 layers of 3 heads: the same colours right in four fifths of the seconds.
SMALLER = ("--set", "patch=4", "--set", "layers=3", "--set", "heads=4", "--set", "lr=3e-3", "--set", "warmup=50")
WARM_UP = 5.0  # seconds of training before the first score: what a model knows that has hardly begun


@dataclass(frozen=True, slots=True)
class Step:
    """One command, what it is for, and the file or folder that it leaves."""

    why: str
    arguments: tuple[str, ...]
    leaves: str

    @property
    def line(self) -> str:
        """As a shell would take it."""
        return shlex.join(("commonart", *self.arguments))


def steps(out: str, scenes: int, seconds: float, seed: int) -> list[Step]:
    """The chain, in order."""
    at = Path(out)

    def path(name: str) -> str:
        return str(at / name)

    shards, run = path("shards"), path("run")
    # --overwrite: a step that was interrupted may have left one of its files.
    train = ("train", "--stage", "nano", *SMALLER, "--data", shards, "-o", run, "--seed", str(seed),
             "--sample-every", "500")  # fmt: skip
    grid = ("sample", "--file", path("prompts.txt"), "--columns", "2", "--seed", "1", "--overwrite")
    score = ("--scenes", "30", "--seed", str(seed), "--overwrite")

    def step(why: str, leaves: str, *arguments: str) -> Step:
        return Step(why, arguments, path(leaves))

    return [
        step("Pictures with licences, some of which will not do.", "raw",
             "fetch", "scenes", "--bare", "--limit", str(scenes), "--seed", str(seed), "-o", path("raw")),
        step("Only what the policy allows; the rest is kept apart, with reasons.", "kept.jsonl",
             "license-filter", path("raw"), "--policy", "strict",
             "--rejects", path("refused.jsonl"), "-o", path("kept.jsonl")),
        step("A synthetic English caption for each picture.", "captioned.jsonl",
             "caption", path("kept.jsonl"), "--model", "nano", "--batch", "64", "-o", path("captioned.jsonl")),
        step("A Japanese one beside it.", "captions.jsonl",
             "translate", path("captioned.jsonl"), "--to", "ja", "--model", "nano", "--batch", "128",
             "-o", path("captions.jsonl")),
        step("Decoded safely, one size, reproducible.", "shards",
             "shard", path("captions.jsonl"), "-o", shards, "--size", "64"),
        step("Captions to hidden states of the language model.", "shards/text",
             "encode-text", shards, "--model", "nano", "--batch", "128"),
        step("Pictures to latents.", "shards/image",
             "encode-image", shards, "--model", "nano", "--batch", "64"),
        step("The first seconds of training, from nothing.", "run",
             *train, "--max-seconds", f"{WARM_UP:g}"),
        step("What it draws so far, read back from the pixels.", "before.json",
             "eval", "--model", run, *score, "-o", path("before.json")),
        step("The same command, with more time: it goes on where it stopped.", "run",
             *train, "--max-seconds", f"{seconds:g}"),
        step("Prompts in English and Japanese, side by side, with the weights that come with the package.", "samples.png",
             *grid, "--model", "nano", "--grid", path("samples.png")),
        step("The same prompts with what was trained here.", "trained.png",
             *grid, "--model", run, "--grid", path("trained.png")),
        step("Scores: prompt following, CLIP score, distance to held-out pictures.", "eval.json",
             "eval", "--model", run, shards, "--split", "heldout", "-n", "60", *score, "-o", path("eval.json")),
        step("The shipped weights on the same prompts.", "shipped.json",
             "eval", "--model", "nano", *score, "-o", path("shipped.json")),
        step("Does it give away what it was trained on?", "mia.json",
             "mia", run, "--data", shards, "-n", "60", "--replicate", "20", "--seed", str(seed), "-o", path("mia.json"),
             "--figure", path("figure2.png"), "--overwrite"),
    ]  # fmt: skip


def quickstart(
    invoke: Callable[[Sequence[str]], Any],
    *,
    out: str = "quickstart",
    scenes: int = 1200,
    seconds: float = 150.0,
    seed: int = 0,
) -> None:
    """Run the chain into the folder `out` and write `index.html` there.

    Args:
        invoke: runs one `commonart` command line in this process.
        out: a folder; an unfinished chain in it is continued.
        scenes: pictures to fetch.
        seconds: how long to train.
        seed: of every step that draws lots.

    Raises:
        CommonArtError: the folder holds a quickstart with other settings; and whatever a stage raises.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    chain = steps(out, scenes, seconds, seed)
    lines = [step.line for step in chain]
    done = _finished(folder, lines)
    write_bytes(folder / "prompts.txt", "".join(f"{en}\n{ja}\n" for en, ja in PROMPTS).encode())
    started = time.monotonic()
    for number, step in enumerate(chain):
        if number < len(done) and Path(step.leaves).exists():
            log.say(f"# {step.line}  (finished before)")
            continue
        done = done[:number]
        log.say(f"\n# {step.why}\n$ {step.line}")
        begun = time.monotonic()
        invoke(step.arguments)
        done.append(round(time.monotonic() - begun, 2))
        write_json(folder / "steps.json", {"lines": lines, "seconds": done})
    page(folder, chain, done)
    log.say(f"\nDone in {time.monotonic() - started:.0f} s: open {folder / 'index.html'}")


def _finished(folder: Path, lines: list[str]) -> list[float]:
    """The seconds of the steps that an earlier call finished."""
    try:
        noted = orjson.loads((folder / "steps.json").read_bytes())
    except FileNotFoundError:
        return []
    except orjson.JSONDecodeError:
        noted = None
    if not isinstance(noted, dict) or noted.get("lines") != lines:
        raise CommonArtError(
            f"{folder} holds a quickstart with other settings.", "Give another -o, or remove that folder."
        )
    return list(noted["seconds"])


# --- the page --------------------------------------------------------------------------------------------------------


def page(folder: Path, chain: Sequence[Step], seconds: Sequence[float]) -> None:
    """`index.html`: what was done, what was kept and why, pictures, scores and audit."""
    made = Page(
        "commonart quickstart",
        "A copyright-respecting text-to-image model, from licensed pictures to its audit, on embedded nano models. "
        "They know only scenes: a few shapes, colours, places and backgrounds.",
    )
    made.heading("Pictures / 生成結果")
    made.image("samples.png", "Drawn by the weights that come with the package.")
    made.image("trained.png", "The same prompts, drawn by the model that was trained here, from nothing, in seconds.")
    made.heading("Prompt following / プロンプトへの忠実さ")
    made.text("Share of prompts whose fact the pixels show, read back without any model.")
    made.table(("model", "language", "prompts", *FACTS, "n"), _following(folder))
    made.heading("Scores")
    made.text(
        "Of what was trained here, for captions of held-out pictures and for prompts of scenes that it never saw."
    )
    made.table(("metric", "language", "prompts", "judge", "value", "n"), _scores(folder))
    made.heading("Training")
    metrics = [value for _, value in jsonl.read_values(str(folder / "run" / "metrics.jsonl"))]
    made.chart([(m["step"], m["loss"]) for m in metrics if m.get("loss") is not None], "step", "loss")
    made.heading("Memorisation / 学習データの記憶")
    audit = _json(folder / "mia.json")
    made.table(
        ("attack", "AUC", "95 % interval", "control AUC", "verdict"),
        [
            (name, row["auc"]["value"], _interval(row["auc"]), row["control"]["auc"]["value"], row["verdict"])
            for name, row in audit["attacks"].items()
        ],
    )
    made.image("figure2.png", "Caption and training picture, what the model draws, and the nearest training picture.")
    made.heading("Licences / ライセンス")
    made.table(("licence", "pictures"), _licences(folder))
    made.text("Left out, by reason:", soft=True)
    made.table(("reason", "pictures"), _refused(folder))
    made.heading("Commands")
    made.table(("command", "seconds"), [(step.line, spent) for step, spent in zip(chain, seconds, strict=True)])
    made.write(folder / "index.html")


def _json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = orjson.loads(path.read_bytes())
    return value


def _interval(value: dict[str, Any]) -> str:
    return f"{value['low']:.3f} to {value['high']:.3f}"


def _following(folder: Path) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    names = ((f"after {WARM_UP:g} s", "before.json"), ("trained here", "eval.json"), ("shipped", "shipped.json"))
    for name, file in names:
        for score in _json(folder / file)["scores"]:
            if score["metric"] == "scenes":
                shares = (f"{100 * score[fact]:.0f} %" for fact in FACTS)
                rows.append((name, score["lang"], score.get("set", "captions"), *shares, score["n"]))
    return rows


def _scores(folder: Path) -> list[tuple[object, ...]]:
    scores = _json(folder / "eval.json")["scores"]
    return [
        (
            score["metric"], score["lang"], score.get("set", "captions"), score.get("judge", ""),
            round(float(score["value"]), 3), score["n"],
        )
        for score in scores
        if score["metric"] != "scenes"
    ]  # fmt: skip


def _licences(folder: Path) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for record in stream.read(str(folder / "shards")):
        counts[record["license"]] = counts.get(record["license"], 0) + 1
    return sorted(counts.items(), key=lambda item: -item[1])


def _refused(folder: Path) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for _, record in jsonl.read_values(str(folder / "refused.jsonl")):
        counts[record["reason"]] = counts.get(record["reason"], 0) + 1
    for tar in list_shards(folder / "shards"):
        manifest = read_manifest(tar)
        for reason, count in manifest.dropped.items() if manifest else ():
            counts[reason] = counts.get(reason, 0) + count
    return sorted(counts.items(), key=lambda item: -item[1])
