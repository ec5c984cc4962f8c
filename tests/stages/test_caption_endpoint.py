"""`commonart caption --endpoint`: whole commands against a server on this machine that speaks the protocol."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import HUB, Answer, ChatServer, width
from commands import Command
from PIL import Image

from commonart.core.data.shards.reader import read_shard
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.model.captioning.captioners import Captioner


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer() as server:
        yield server


def shards(folder: Path, count: int = 12, size: int = 4) -> Path:
    """A folder of shards of small pictures, each of another width."""
    folder.mkdir()
    numbers = iter(range(count))
    for number in itertools.count():
        part = list(itertools.islice(numbers, size))
        if not part:
            return folder
        with ShardWriter(folder / f"{number:05d}.tar") as writer:
            for i in part:
                data = io.BytesIO()
                Image.new("RGB", (20 + i, 16), (10 * i, 0, 0)).save(data, "png")
                writer.add_record({"key": f"k{i:03d}"}, data.getvalue(), "png")
    raise AssertionError


def captions(folder: Path) -> list[dict[str, Any]]:
    return [record.get("captions", []) for tar in sorted(folder.glob("*.tar")) for record in read_shard(tar)]  # type: ignore[misc]


def test_the_whole_command(server: ChatServer, tmp_path: Path, in_process: Command) -> None:
    shards(tmp_path / "shards")
    server.choose = lambda body: Answer(finish_reason="length") if width(body) == 23 else None
    done = in_process(
        "caption", "--model", "qwen3-vl", "--endpoint", server.url, "shards/", "-o", "out/", "--min-captions", "0"
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stderr.splitlines()[-1])
    assert (summary["in"], summary["out"], summary["missing"]) == (12, 12, {"cut_off": 1})
    written = captions(tmp_path / "out")
    caption = {name: value for name, value in written[0][0].items() if value is not None}
    assert caption == {
        "text": "A photograph of 20 red dots on a white wall.", "lang": "en", "model": "qwen3-vl", "revision": "",
        "license": "Apache-2.0", "synthetic": True,
        "length": "long", "prompt": "Describe this image in detail in one paragraph.", "words": 10, "side": 768,
        "max_new_tokens": Captioner.MAX_NEW_TOKENS, "engine": "vllm 0.11.0",
    }  # fmt: skip
    assert [len(each) for each in written] == [1, 1, 1, 0, *[1] * 8]
    asked = [body for body in server.requests if width(body) == 23]
    assert [body.get("repetition_penalty") for body in asked] == [None, 1.2, None], "retry, then the other prompt"

    server.choose = lambda body: None
    done = in_process(
        "translate", "--to", "ja", "--model", "cat-translate", "--endpoint", server.url, "out/", "-o", "ja/"
    )
    assert done.returncode == 2 and b"does not serve" in done.stderr and HUB.encode() in done.stderr
    with ChatServer(models=("cat-translate",)) as translator:
        arguments = (
            "translate",
            "--to",
            "ja",
            "--model",
            "cat-translate",
            "--endpoint",
            f"{translator.url}/v1",
            "out/",
        )
        done = in_process(*arguments, "-o", "ja/")
        assert done.returncode == 0, done.stderr
    japanese = captions(tmp_path / "ja")[0][1]
    assert (japanese["text"], japanese["model"]) == ("これは20個の点がある写真です。", "cat-translate")
    assert (japanese["engine"], japanese["translated_from"]) == ("vllm 0.11.0", "qwen3-vl")
    assert len(translator.requests) == 11


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--endpoint-model", "x"), b"--endpoint-model needs --endpoint."),
        (("--endpoint-key-file", "x"), b"--endpoint-key-file needs --endpoint."),
        (("--endpoint", "URL", "--precision", "bf16"), b"--precision cannot be used with --endpoint."),
        (("--endpoint", "URL", "--model", "a,b", "--endpoint-model", "x"), b"--endpoint-model goes with one --model."),
        (("--endpoint", "URL", "--endpoint-key-file", "nowhere"), b"nowhere"),
    ],
)
def test_usage(
    arguments: tuple[str, ...], words: bytes, server: ChatServer, tmp_path: Path, in_process: Command
) -> None:
    shards(tmp_path / "shards", 1)
    given = [server.url if each == "URL" else each for each in arguments]
    done = in_process("caption", "--model", "qwen3-vl", *given, "shards/", "-o", "out/")
    assert done.returncode in (1, 2) and words in done.stderr and b"Traceback" not in done.stderr


def start(tmp_path: Path, server: ChatServer, out: str) -> subprocess.Popen[bytes]:
    arguments = ["caption", "--model", "qwen3-vl", "--endpoint", server.url, "shards/", "-o", out, "--batch", "2"]
    return subprocess.Popen(
        [sys.executable, "-m", "commonart.cli.main", *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_killed_run_goes_on_and_gives_the_same_folder(server: ChatServer, tmp_path: Path) -> None:
    shards(tmp_path / "shards")
    whole = start(tmp_path, server, "whole/")
    assert whole.wait(60) == 0, whole.communicate()
    count = len(server.requests)
    server.plan = [Answer(seconds=0.2)]
    killed = start(tmp_path, server, "out/")
    wait_for(lambda: len(server.requests) >= count + 7)
    killed.send_signal(signal.SIGKILL)
    killed.wait(10)
    server.plan = [Answer()]
    before = len(server.requests)
    again = start(tmp_path, server, "out/")
    assert again.wait(60) == 0, again.communicate()
    assert len(server.requests) - before < 12, "finished shards are kept"

    def tars(name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((tmp_path / name).glob("*.tar"))}

    assert tars("out") == tars("whole") and len(tars("out")) == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_ends_at_once(server: ChatServer, tmp_path: Path, number: int, code: int) -> None:
    shards(tmp_path / "shards")
    server.plan = [Answer(seconds=60)]
    process = start(tmp_path, server, "out/")
    wait_for(lambda: server.in_flight == 2)
    started = time.monotonic()
    process.send_signal(number)
    assert process.wait(10) == code
    assert time.monotonic() - started < 5
    assert process.stderr and b"Traceback" not in process.stderr.read()
