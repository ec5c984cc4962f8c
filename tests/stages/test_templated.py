"""`eval --templated`: from prompts to scores by one command, with the reader of scenes and with a model on a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_clip
import tiny_pipeline
from chat_server import Answer, ChatServer

from commonart.core.errors import UsageError
from commonart.core.output import metadata
from commonart.stages.evaluate import run, table

TINY = {"device": "cpu", "precision": "fp32", "steps": 2, "quiet": True}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny model and a tiny encoder."""
    root = tmp_path_factory.mktemp("made")
    return {
        "model": str(tiny_pipeline.pipeline(root / "model")),
        "clip": str(tiny_clip.open_clip_folder(root / "clip")),
    }


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_reader_of_scenes_judges_offline(made):
    options = {"model": made["model"], "clip": made["clip"], "clip_ja": made["clip"], "templated": 5, **TINY}
    result = run(**options, pictures="pictures")
    assert json.loads(Path("eval.json").read_text()) == json.loads(json.dumps(result))
    scores = {score["lang"]: score for score in result["scores"] if score["metric"] == "questions"}
    assert scores.keys() == {"en", "ja"}
    for lang, score in scores.items():
        assert (score["judge"], score["n"], score["set"], score["seed"]) == ("nano", 5, "templated", 0)
        assert 0 <= score["low"] <= score["value"] <= score["high"] <= 1 and score["questions"] > 15
        files = sorted(Path(f"pictures/templated-{lang}").glob("*.png"))
        assert len(files) == 5
    settings = metadata.settings_of("pictures/templated-ja/00000.png")
    assert settings is not None and settings["prompt"].isascii() is False
    assert table(result).count("questions (nano)") == 2
    assert run(**options, pictures="pictures", overwrite=True)["scores"] == result["scores"]


def test_the_command_asks_a_server(made, in_process, folder):
    (folder / "key.txt").write_text("secret")
    with ChatServer(models=("ours",)) as server:
        server.choose = lambda body: Answer(text="Yes." if "image?" in str(body) else "No.")
        shown = in_process(
            "eval", "--model", made["model"], "--clip", made["clip"], "--langs", "en", "--templated", "5", "--steps", "2",
            "--judge", "qwen3-vl", "--endpoint", server.url, "--endpoint-model", "ours",
            "--endpoint-key-file", "key.txt", "--device", "cpu", "--precision", "fp32",
        )  # fmt: skip
        assert shown.returncode == 0, shown.stderr.decode()
        assert "object 100 %" in shown.stdout.decode() and "color 0 %" in shown.stdout.decode()
        (score,) = [s for s in json.loads((folder / "eval.json").read_text())["scores"] if s["metric"] == "questions"]
        assert score["judge"] == "qwen3-vl" and len(server.requests) == score["questions"]


def test_what_cannot_judge_is_an_error_before_an_image_is_generated(made):
    options = {"model": made["model"], "clip": made["clip"], "clip_ja": made["clip"], "pictures": "pictures", **TINY}
    for more, sentence in (
        ({"templated": 2, "judge": "florence2"}, "--judge florence2 describes images"),
        ({"templated": 2, "judge": "nowhere"}, "--judge nowhere is not"),
        ({"scenes": 2, "judge": "qwen3-vl"}, "--judge and --endpoint judge templated prompts"),
        ({"templated": -1}, "--templated must be at least 0"),
    ):
        with pytest.raises(UsageError, match=sentence):
            run(**options, **more)
    with pytest.raises(UsageError, match="--templated needs a model"):
        run("pictures", templated=2)
    assert not Path("pictures").exists() and not Path("eval.json").exists()
