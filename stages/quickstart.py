"""Every stage once, on the embedded models.

Each step is a command line, printed and then run in this process through the same function as a command typed into the
shell. Finished steps are recorded in `steps.json`, and the same command continues after the last of them.
"""

from __future__ import annotations

import shlex
import time
from collections import Counter
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
# A model that has trained for minutes follows prompts best with little guidance: tests/benchmarks/README.md, quickstart.
GUIDANCE = ("--guidance", "3")
WARM_UP = 5.0  # seconds of training before the first score, which shows where the model started


@dataclass(frozen=True, slots=True)
class Step:
    """One command, what it is for, and the file or folder that it writes."""

    purpose: str
    arguments: tuple[str, ...]
    output: str

    @property
    def command(self) -> str:
        """The command line as typed into a shell."""
        return shlex.join(("commonart", *self.arguments))


def steps(out: str, scenes: int, seconds: float, seed: int) -> list[Step]:
    """Return the chain, in order."""

    def path(name: str) -> str:
        return str(Path(out) / name)

    shards, run = path("shards"), path("run")
    # --overwrite: an interrupted step may have written one of its files.
    train = ("train", "--stage", "fast-nano", "--data", shards, "-o", run, "--seed", str(seed),
             "--sample-every", "1000")  # fmt: skip
    grid = ("sample", "--file", path("prompts.txt"), "--columns", "2", "--seed", "1", *GUIDANCE, "--overwrite")
    score = ("--scenes", "30", "--seed", str(seed), *GUIDANCE, "--overwrite")

    def step(purpose: str, output: str, *arguments: str) -> Step:
        return Step(purpose, arguments, path(output))

    return [
        step("Images with licences, some of which no policy allows.", "raw",
             "fetch", "scenes", "--bare", "--limit", str(scenes), "--seed", str(seed), "-o", path("raw")),
        step("Only what the policy allows; the rest goes to a file of its own, with reasons.", "kept.jsonl",
             "license-filter", path("raw"), "--policy", "strict",
             "--rejects", path("refused.jsonl"), "-o", path("kept.jsonl")),
        step("Two synthetic captions for each image, by two models: one in English, one in Japanese.", "captioned.jsonl",
             "caption", path("kept.jsonl"), "--model", "nano,nano-ja", "--temperature", "1", "--batch", "64",
             "-o", path("captioned.jsonl")),
        step("A Japanese translation of each English caption.", "japanese.jsonl",
             "translate", path("captioned.jsonl"), "--to", "ja", "--model", "nano", "--batch", "128",
             "-o", path("japanese.jsonl")),
        step("An English translation of each Japanese one: four captions, two in each language.", "captions.jsonl",
             "translate", path("japanese.jsonl"), "--to", "en", "--model", "nano", "--batch", "128",
             "-o", path("captions.jsonl")),
        step("Training images of one size, in reproducible shards.", "shards",
             "shard", path("captions.jsonl"), "-o", shards, "--size", "64"),
        step("Captions encoded as hidden states of the language model.", "shards/text",
             "encode-text", shards, "--model", "nano", "--batch", "128"),
        step("Images encoded as latents.", "shards/image",
             "encode-image", shards, "--model", "nano", "--batch", "64"),
        step("The first seconds of training, from random weights.", "run",
             *train, "--max-seconds", f"{WARM_UP:g}"),
        step("How well the model follows prompts so far, read back from the pixels.", "before.json",
             "eval", "--model", run, *score, "-o", path("before.json")),
        step("The same command with more time: training continues where it stopped.", "run",
             *train, "--max-seconds", f"{seconds:g}"),
        step("Prompts in English and Japanese, side by side, with the weights of the package.", "samples.png",
             *grid, "--model", "nano", "--grid", path("samples.png")),
        step("The same prompts with the model trained here.", "trained.png",
             *grid, "--model", run, "--grid", path("trained.png")),
        step("Scores: prompt following, CLIP score, distance to held-out images.", "eval.json",
             "eval", "--model", run, shards, "--split", "heldout", "-n", "60", *score, "-o", path("eval.json")),
        step("The weights of the package on the same prompts.", "shipped.json",
             "eval", "--model", "nano", *score, "-o", path("shipped.json")),
        step("Does the model give away what it was trained on?", "mia.json",
             "mia", run, "--data", shards, "--reference", "nano", "-n", "60", "--replicate", "20",
             "--seed", str(seed), "-o", path("mia.json"), "--figure", path("figure2.png"), "--overwrite"),
        step("The card of the model trained here: every work, licence and model that took part.", "card",
             "report", run, shards, "--eval", path("eval.json"), "--mia", path("mia.json"), "--evidence", "--overwrite",
             "-o", path("card")),
    ]  # fmt: skip


def run(
    invoke: Callable[[Sequence[str]], object], out: str, *, scenes: int = 2000, seconds: float = 180.0, seed: int = 0
) -> None:
    """Run the chain into the folder `out`, or go on with it, and write `index.html` there.

    Args:
        invoke: runs one `commonart` command line in this process.
        scenes: images to fetch.
        seconds: time to train.

    Raises:
        CommonArtError: `out` holds a quickstart with other settings; and whatever a stage raises.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    chain = steps(out, scenes, seconds, seed)
    commands = [step.command for step in chain]
    durations = _finished(folder, commands)
    write_bytes(folder / "prompts.txt", "".join(f"{en}\n{ja}\n" for en, ja in PROMPTS).encode())
    started = time.monotonic()
    for number, step in enumerate(chain):
        if number < len(durations) and Path(step.output).exists():
            log.say(f"# {step.command}  (already finished)")
            continue
        durations = durations[:number]
        log.say(f"\n# {step.purpose}\n$ {step.command}")
        step_started = time.monotonic()
        invoke(step.arguments)
        durations.append(round(time.monotonic() - step_started, 2))
        write_json(folder / "steps.json", {"lines": commands, "seconds": durations})
    write_page(folder, chain, durations)
    log.say(f"\nDone in {time.monotonic() - started:.0f} s: open {folder / 'index.html'}")


def _finished(folder: Path, commands: list[str]) -> list[float]:
    """Return the durations of the steps that an earlier call finished."""
    try:
        state = orjson.loads((folder / "steps.json").read_bytes())
    except FileNotFoundError:
        return []
    except orjson.JSONDecodeError:
        state = None
    if not isinstance(state, dict) or state.get("lines") != commands:
        what = f"{folder} holds a quickstart with other settings."
        raise CommonArtError(what, "Choose another -o, or remove that folder.")
    return list(state["seconds"])


# --- the page --------------------------------------------------------------------------------------------------------


def write_page(folder: Path, chain: Sequence[Step], durations: Sequence[float]) -> None:
    """Write `index.html`: images, scores, the memorisation audit, licences, and the commands that made them."""
    page = Page(
        "commonart quickstart",
        "A copyright-respecting text-to-image model, from licensed images to its audit, on embedded nano models. "
        "They know only scenes: a few shapes, colours, places and backgrounds.",
    )
    page.heading("Pictures / 生成結果")
    page.image("samples.png", "By the weights of the package.")
    page.image("trained.png", "The same prompts, by the model that was trained here from random weights.")
    page.heading("Prompt following / プロンプトへの忠実さ")
    page.text("Share of prompts whose facts the pixels show, read back without any model.")
    page.table(("model", "language", "prompts", *FACTS, "n"), _prompt_following(folder))
    page.heading("Scores")
    page.text(
        "Of the model that was trained here, on captions of held-out images and on prompts of scenes that it never saw."
    )
    page.table(("metric", "language", "prompts", "judge", "value", "n"), _scores(folder))
    page.heading("Training")
    metrics = [value for _, value in jsonl.read_values(str(folder / "run" / "metrics.jsonl"))]
    page.chart([(m["step"], m["loss"]) for m in metrics if m.get("loss") is not None], "step", "loss")
    page.heading("Memorisation / 学習データの記憶")
    audit = _json(folder / "mia.json")
    rows = []
    for name, row in audit["attacks"].items():
        area = row["auc"]
        interval = f"{area['low']:.3f} to {area['high']:.3f}"
        rows.append((name, area["value"], interval, row["reference"]["auc"]["value"], row["p_value"], row["verdict"]))
    page.table(("attack, calibrated", "AUC", "95 % interval", "AUC on nano alone", "p", "verdict"), rows)
    page.text(f"{audit['verdict']}: {audit['reason']}.")
    caption = "Caption and training image, what the model makes of the caption, and the nearest training image."
    page.image("figure2.png", caption)
    page.heading("Licences / ライセンス")
    licences = Counter(record["license"] for record in stream.read(str(folder / "shards")))
    page.table(("licence", "images"), licences.most_common())
    page.text("Left out, by reason:", soft=True)
    page.table(("reason", "images"), _refused(folder))
    page.heading("Commands")
    commands = [(step.command, duration) for step, duration in zip(chain, durations, strict=True)]
    page.table(("command", "seconds"), commands)
    page.write(folder / "index.html")


def _json(path: Path) -> dict[str, Any]:
    return dict(orjson.loads(path.read_bytes()))


def _prompt_following(folder: Path) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    names = ((f"after {WARM_UP:g} s", "before.json"), ("trained here", "eval.json"), ("shipped", "shipped.json"))
    for name, file in names:
        for score in _json(folder / file)["scores"]:
            if score["metric"] == "scenes":
                shares = (f"{100 * score[fact]:.0f} %" for fact in FACTS)
                rows.append((name, score["lang"], score.get("set", "captions"), *shares, score["n"]))
    return rows


def _scores(folder: Path) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for score in _json(folder / "eval.json")["scores"]:
        if score["metric"] != "scenes":
            about = (score["metric"], score["lang"], score.get("set", "captions"), score.get("judge", ""))
            rows.append((*about, round(float(score["value"]), 3), score["n"]))
    return rows


def _refused(folder: Path) -> list[tuple[str, int]]:
    counts = Counter(record["reason"] for _, record in jsonl.read_values(str(folder / "refused.jsonl")))
    for tar in list_shards(folder / "shards"):
        manifest = read_manifest(tar)
        counts.update(manifest.dropped if manifest else {})
    return counts.most_common()
