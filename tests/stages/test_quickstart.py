"""The whole chain: short here, as `commonart quickstart` runs it, and once more after an interruption."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest
from commands import Command
from PIL import Image
from tiny_runs import dataset

from commonart.core.data import jsonl, stream
from commonart.core.errors import CommonArtError
from commonart.core.training import checkpoint
from commonart.core.training import logging as metrics
from commonart.stages.quickstart import FACTS, run, steps

ARGUMENTS = ("quickstart", "--scenes", "240", "--seconds", "12")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("newcomer")


@pytest.mark.slow
def test_the_chain_runs_and_a_second_call_resumes(commonart: Command, folder: Path) -> None:
    done = commonart(*ARGUMENTS, cwd=folder)
    shown = done.stderr.decode()
    assert done.returncode == 0, shown
    for step in steps("quickstart", 240, 12.0, 0):
        assert f"$ {step.command}" in shown
        assert (folder / step.output).exists()
    out = folder / "quickstart"
    before = (out / "run" / "metrics.jsonl").read_bytes()
    (out / "mia.json").unlink()  # as if it had been interrupted there
    again = commonart(*ARGUMENTS, cwd=folder)
    assert again.returncode == 0, again.stderr.decode()
    assert (out / "mia.json").exists()
    assert (out / "run" / "metrics.jsonl").read_bytes() == before
    other = commonart("quickstart", "--scenes", "300", cwd=folder)
    assert other.returncode == 1
    assert b"holds a quickstart with other settings" in other.stderr

    records = list(stream.read(str(out / "shards")))
    kept = list(jsonl.read(str(out / "kept.jsonl")))
    refused = [value for _, value in jsonl.read_values(str(out / "refused.jsonl"))]
    assert len(kept) + len(refused) == 240
    assert {record["key"] for record in records} == {record["key"] for record in kept}
    for record in records:
        assert {caption["lang"] for caption in record["captions"]} == {"en", "ja"}
        assert all(caption["synthetic"] for caption in record["captions"])
        assert record["license"] in {"CC0-1.0", "CC-BY-4.0", "LicenseRef-CC-BY-2.1-JP"}
    metrics = [line for _, line in jsonl.read_values(str(out / "run" / "metrics.jsonl")) if "loss" in line]
    assert metrics[-1]["loss"] <= metrics[0]["loss"] < 3
    scores = orjson.loads((out / "shipped.json").read_bytes())["scores"]
    followed = [score for score in scores if score["metric"] == "scenes"]
    assert {(score["lang"], score["set"]) for score in followed} == {
        (lang, kind) for lang in ("en", "ja") for kind in ("unseen", "held-out pairs")
    }
    assert all(0 <= score[fact] <= 1 for score in followed for fact in FACTS)
    for name in ("samples.png", "trained.png", "figure2.png"):
        assert Image.open(out / name).width > 128
    html = (out / "index.html").read_text("utf-8")
    assert "samples.png" in html and "草原" not in html.split("<h2>")[0]


@pytest.mark.parametrize("noted", ["", "{}", "[]", '{"li'])
def test_a_damaged_list_of_steps_is_no_traceback(tmp_path: Path, noted: str) -> None:
    (tmp_path / "steps.json").write_text(noted)
    with pytest.raises(CommonArtError, match="other settings"):
        run(lambda line: None, str(tmp_path))


TRAINS_ONLY = """
import sys
from commonart.cli import main
from commonart.stages import quickstart
data, run = sys.argv[1:]
train = ("train", "--stage", "nano", "--data", data, "-o", run, "--checkpoint-every", "100000", "--set", "layers=1",
         "--set", "resolution=16")
next_one = quickstart.Step("", ("train", "--list"), "nowhere")
quickstart.steps = lambda *_: [quickstart.Step("", train, run), next_one]
sys.exit(main.run(["quickstart"]))
"""


@pytest.mark.slow
def test_ctrl_c_while_it_trains_saves_and_ends_the_chain_with_130(tmp_path: Path) -> None:
    data, run = dataset(tmp_path / "shards"), tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", TRAINS_ONLY, str(data), str(run)], stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        cwd=tmp_path, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        while not metrics.read(run / "metrics.jsonl"):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert b"256-early" not in out and b"Traceback" not in said
    assert checkpoint.newest(run) is not None and not (tmp_path / "quickstart" / "steps.json").exists()
