"""What is wrong with a command line of `eval` and `mia` is told before torch is imported, which takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

# Command line -> (exit code, what is said).
CALLS = {
    "eval none": (1, "none"),
    "eval empty": (1, "empty holds no images"),
    "eval a --fid odd": (2, "--fid odd needs real images"),
    "eval a a --fid odd": (2, "--fid odd is not a mode"),
    "eval a --clip-mode odd": (2, "--clip-mode odd is not a mode"),
    "eval a a --metrics odd": (2, "--metrics odd is not a metric"),
    "eval a a --clip odd": (2, "--clip odd is not a clip model"),
    "eval a --templated 5": (2, "--templated needs a model"),
    "eval --model odd --scenes 5": (2, "--model odd is not a transformer model"),
    "eval --model nano --templated 5 --judge odd": (2, "--judge odd is not a caption model"),
    "eval --model nano --scenes 5 -o no/eval.json": (1, "-o no/eval.json: there is no folder no"),
    "mia odd --data records.jsonl": (2, "MODEL odd is not a transformer model"),
    "mia sd2.1-base --data records.jsonl": (2, "MODEL sd2.1-base is a StableDiffusionPipeline"),
    "mia nano --data none": (1, "--data none does not exist"),
    "mia nano --data empty.jsonl": (1, "--data empty.jsonl holds no records"),
    "mia nano --data records.jsonl": (1, "records.jsonl holds 0 images held out"),
    "mia nano --data records.jsonl --keys none.txt": (1, "--keys none.txt cannot be read"),
    "mia nano --data records.jsonl --keys empty.txt": (1, "--keys empty.txt names no works"),
    "mia nano --data records.jsonl --judge odd": (2, "--judge odd is not a clip model"),
    "mia nano --data records.jsonl --judge odd.pt": (1, "--judge odd.pt"),
    "mia nano --data records.jsonl --reference odd": (2, "--reference odd is not a transformer model"),
    "mia nano --data records.jsonl --attacks odd": (2, "--attacks odd is not an attack"),
    "mia nano --data records.jsonl -o mia.html": (2, "-o mia.html would be the page as well"),
    "vote a a -o votes.csv": (2, "-o votes.csv: votes are kept in a .jsonl"),
}
# Every call in one process in which torch cannot be imported: an error of its import is no sentence.
PROGRAM = """
import contextlib, io, json, sys
sys.modules["torch"] = None
from commonart.cli.main import run
found = {}
for call in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            found[call] = run(call.split()), said.getvalue()
        except ImportError as error:
            found[call] = -1, repr(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    folder: Path = tmp_path_factory.mktemp("early")
    for name in ("a", "empty"):
        (folder / name).mkdir()
    for name in ("empty.jsonl", "empty.txt"):
        (folder / name).write_text("")
    Image.new("RGB", (8, 8)).save(folder / "a" / "0.png")
    lines = [
        {"key": f"k{n}", "image": str(folder / "a/0.png"), "split": "train",
         "captions": [{"text": f"a ring {n}", "lang": "en"}]}
        for n in range(8)
    ]  # fmt: skip
    (folder / "records.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(list(CALLS)), cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {call: tuple(each) for call, each in json.loads(done.stdout).items()}


@pytest.mark.parametrize("call", CALLS)
def test_it_is_told_without_torch(found: dict[str, tuple[int, str]], call: str) -> None:
    code, sentence = CALLS[call]
    assert found[call][0] == code and sentence in found[call][1], found[call]
