"""`commonart train --stage captioner-align` and `--stage captioner`, on tiny models of the real classes."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_language_models as tiny
import torch
from captioner_runs import SMALL, parts, said, shards, start
from PIL import Image
from safetensors.torch import load_file
from tiny_runs import refused
from tiny_runs import train as train_stage
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, LlavaForConditionalGeneration

from commonart.core import launch
from commonart.core.errors import CommonArtError, Preempted, UsageError
from commonart.core.generation.components import locate
from commonart.core.generation.request import ModelSpec
from commonart.core.model.captioning.captioners import Captioner
from commonart.core.model.captioning.generate import Generated
from commonart.core.registry import lookup
from commonart.core.registry.catalogue import Prompt
from commonart.core.registry.hub import NANO_WEIGHTS
from commonart.core.settings import Settings
from commonart.core.training import captioner, captioner_parts, captioner_plan, captioner_run, checkpoint, logging
from commonart.core.training.caption_data import PROMPTS
from commonart.core.training.distributed import World
from commonart.core.training.run import check_kind

__all__ = ["parts"]  # the fixture
SHORT = PROMPTS["ja", "short"]
NUMBERS: Iterator[int] = itertools.count()
UNTIMED = ("seconds", "images_per_second", "mfu", "seconds_left")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shards(
        tmp_path_factory.mktemp("data") / "shards", lambda n: [said("赤い" * (1 + n % 4)), said("a" * (1 + n), "en")]
    )


@pytest.fixture(scope="module")
def runs(parts: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages, one after the other."""
    home = tmp_path_factory.mktemp("runs")
    start(parts, data, home / "captioner-align")
    start(parts, data, home / "captioner", "captioner", vision_tower="", language_model="")
    return home


def weights(run: Path) -> dict[str, torch.Tensor]:
    model: Any = LlavaForConditionalGeneration.from_pretrained(run / "captioner", dtype=torch.float32)
    return dict(model.state_dict())


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def part_of(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def test_alignment_leaves_tower_and_language_model_as_they_came(runs: Path, parts: Path) -> None:
    state = weights(runs / "captioner-align")
    tower: Any = AutoModel.from_pretrained(parts / "siglip").vision_model
    writer: Any = AutoModelForCausalLM.from_pretrained(parts / "llama")
    expected = {name: tensor for name, tensor in tower.state_dict().items() if not name.startswith("head.")}
    assert same(part_of(state, "model.vision_tower."), expected)
    assert same(part_of(state, "model.language_model."), dict(writer.model.state_dict()))
    assert torch.equal(state["lm_head.weight"], writer.lm_head.weight)
    found = checkpoint.newest(runs / "captioner-align")
    assert found is not None
    kept = load_file(found.folder / "captioner" / "model.safetensors")
    assert {name.rpartition("multi_modal_projector.")[2] for name in kept} == {
        "linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias"
    }  # fmt: skip
    seeded, _ = captioner_parts.assemble(
        parts / "siglip", parts / "llama", parts / "llama", seed=0, frozen=torch.float32, trains="projector"
    )
    projector = part_of(state, "model.multi_modal_projector.")
    assert not any(torch.equal(t, projector[n]) for n, t in seeded.model.multi_modal_projector.state_dict().items())


def test_the_second_stage_starts_from_the_first_and_moves_the_language_model(runs: Path) -> None:
    before, after = weights(runs / "captioner-align"), weights(runs / "captioner")
    assert same(part_of(before, "model.vision_tower."), part_of(after, "model.vision_tower."))
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert {name.split(".")[0] for name in moved} == {"model", "lm_head"}
    assert any("language_model.layers.0" in name for name in moved) and any("projector" in name for name in moved)
    described = captioner_run.run.read(runs / "captioner")
    assert described["init"] == {"from": str(runs / "captioner-align"), "step": 3}
    assert described["vision_tower"] == captioner_run.run.read(runs / "captioner-align")["vision_tower"]


def inputs_of(parts: Path, texts: list[tuple[str, str, str]], max_tokens: int = 300) -> tuple[Any, Any]:
    llava, processor = captioner_parts.assemble(
        parts / "siglip", parts / "llama", parts / "llama", seed=0, frozen=torch.float32, trains="projector"
    )
    made = captioner.CaptionInputs(processor, list(PROMPTS.values()), max_tokens)
    pictures = [Image.new("RGB", (9, 9), (30 * n, 255 - 40 * n, 90)) for n in range(len(texts))]
    return captioner.CaptionModel(llava, "projector"), lambda taken: made(
        [texts[n] for n in taken], [pictures[n] for n in taken]
    )


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_padding_and_batch_size_do_not_change_the_loss(parts: Path, tmp_path: Path, kind: str) -> None:
    shutil.copytree(parts, tmp_path / "parts")
    if kind == "clip":
        shutil.rmtree(tmp_path / "parts" / "siglip")
        shutil.copytree(parts / "clip", tmp_path / "parts" / "siglip")
    texts = [("ja", "short", "赤い丸"), ("en", "long", "a red circle. It is large."), ("ja", "long", "青" * 30)]
    model, inputs = inputs_of(tmp_path / "parts", texts)
    with torch.no_grad():
        together = model(**inputs([0, 1, 2]))
        apart = torch.cat([model(**inputs([n])) for n in range(3)])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)
    assert together.unique().numel() == 3


def test_the_loss_is_that_of_the_caption_and_its_end(parts: Path) -> None:
    model, inputs = inputs_of(parts, [("ja", "short", "赤い"), ("ja", "short", "赤い丸があります")], max_tokens=9)
    batch = inputs([0, 1])
    tokenizer = AutoTokenizer.from_pretrained(parts / "llama")
    predicted = [row[row != -100] for row in batch["labels"]]
    assert tokenizer.decode(predicted[0]) == "赤い</s>"
    assert tokenizer.decode(predicted[1]) == "赤い丸"  # cut off: it has no end to learn
    prompt = tokenizer.decode(batch["input_ids"][0][batch["labels"][0] == -100], skip_special_tokens=False)
    assert prompt.replace("<pad>", "") == SHORT.texts[0].replace("<image>", "<image>" * 4)
    with torch.no_grad():
        loss = model(**batch)[0]
        logits = model.llava(**{name: t[:1] for name, t in batch.items() if name != "labels"}).logits[0].log_softmax(-1)
    labels = batch["labels"][0]
    expected = [-logits[n - 1, labels[n]] for n in range(len(labels)) if labels[n] != -100]
    torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=1e-5, atol=1e-5)


def test_micro_batches_make_the_same_step(parts: Path, data: Path, tmp_path: Path) -> None:
    for size in (1, 4):
        start(parts, data, tmp_path / f"run{size}", more={"micro_batch": size})
    ones, four = (logging.read(tmp_path / f"run{size}" / "metrics.jsonl") for size in (1, 4))
    for a, b in zip(ones, four, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5) and a["grad_norm"] == pytest.approx(
            b["grad_norm"], rel=1e-4
        )
        assert a["tokens"] == b["tokens"] > 0 and "loss_by_t" not in a


@pytest.mark.parametrize("stage", ["captioner-align", "captioner"])
def test_a_continued_run_is_the_uninterrupted_one_bit_for_bit(
    parts: Path, data: Path, tmp_path: Path, stage: str
) -> None:
    more = {"ema": 0.9, "micro_batch": 2}
    start(parts, data, tmp_path / "whole", stage, {**more, "steps": 4}, init="none")
    start(parts, data, tmp_path / "twice", stage, {**more, "steps": 2}, init="none")
    assert weights(tmp_path / "twice")  # there is one after every call
    start(parts, data, tmp_path / "twice", stage, {**more, "steps": 4})
    for run in (whole := tmp_path / "whole", twice := tmp_path / "twice"):
        assert checkpoint.newest(run).step == 4  # type: ignore[union-attr]
    files = sorted(p.relative_to(whole) for p in whole.rglob("*.safetensors") if "step-0000004" in str(p))
    assert len(files) == 3
    assert all((whole / f).read_bytes() == (twice / f).read_bytes() for f in files)
    assert same(weights(whole), weights(twice))
    timeless = [
        [{k: v for k, v in x.items() if k not in UNTIMED} for x in logging.read(r / "metrics.jsonl")]
        for r in (whole, twice)
    ]
    assert timeless[0] == timeless[1]
    assert files[1].parent.name == "ema"
    average, written = load_file(whole / files[1]), weights(whole)
    assert all(torch.equal(tensor, written[name.removeprefix("llava.")]) for name, tensor in average.items())


def test_a_signal_saves_and_the_same_call_goes_on(parts: Path, data: Path, tmp_path: Path) -> None:
    settings = Settings(
        "captioner-align", data=str(data), out=str(tmp_path / "run"), vision_tower=str(parts / "siglip"),
        language_model=str(parts / "llama"), overrides=SMALL, device="cpu", precision="fp32", workers=0, quiet=True,
    )  # fmt: skip
    stop = launch.StopRequest()
    stop.exit_code = 75
    with pytest.raises(Preempted) as told:
        captioner_run.train(settings, World(torch.device("cpu")), stop)
    assert told.value.code == 75 and checkpoint.newest(tmp_path / "run") is not None
    assert not (tmp_path / "run" / "captioner").exists()
    refused(UsageError, 2, "its training has not ended yet", "Use a model",
            lambda: Captioner.open(str(tmp_path / "run")))  # fmt: skip
    done = captioner_run.train(settings, World(torch.device("cpu")))
    assert done.step == 3 and (tmp_path / "run" / "captioner" / "config.json").is_file()
    shutil.rmtree(tmp_path / "run" / "captioner")  # as if it had been killed before it was written
    captioner_run.train(settings, World(torch.device("cpu")))
    assert (tmp_path / "run" / "captioner" / "config.json").is_file()


def test_what_was_learned_is_what_the_stage_writes(parts: Path, tmp_path: Path) -> None:
    """The model says its one caption, ends it, and does so at the prompt of the run's folder."""
    one = shards(tmp_path / "shards", lambda n: [said("赤い丸。"), said("no", "en")])
    start(parts, one, tmp_path / "captioner", "captioner", {"steps": 150, "lr": 3e-3}, init="none", log_every=50)
    engine = Captioner.open(str(tmp_path / "captioner"), device="cpu", precision="fp32", max_new_tokens=40)
    assert engine.model.prompts == (SHORT,) and engine.model.langs == ("ja",)
    assert engine.license == "Apache-2.0" and not engine.accepted
    pictures = [Image.new("RGB", size, "red") for size in ((40, 24), (500, 20))]
    texts = engine.caption(pictures, engine.model.prompts[0].texts[0])
    assert [(t.text, t.finished) for t in texts if isinstance(t, Generated)] == [("赤い丸。", True)] * 2


def test_the_run_of_another_model_is_a_sentence(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(CommonArtError, match="is the run of a captioner, which generates no images"):
        locate(ModelSpec(str(runs / "captioner")))
    for name, what in (({"captioner": {}}, "has not ended yet"), ({"text_encoder": {}}, "which writes no captions")):
        (tmp_path / "run.json").write_text(json.dumps(name))
        with pytest.raises(UsageError, match=what):
            Captioner.open(str(tmp_path))


def test_a_run_goes_on_as_the_kind_of_model_that_it_is(runs: Path, parts: Path, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "transformer"
    (other / "checkpoints").mkdir(parents=True)
    described: dict[str, dict[str, str]] = {
        key: {} for key in ("data", "text_encoder", "autoencoder", "transformer", "recipe")
    }
    (other / "run.json").write_text(json.dumps(described))
    with pytest.raises(
        CommonArtError, match="is the run of a transformer, and stage captioner-align trains a captioner"
    ):
        start(parts, data, other)
    with pytest.raises(CommonArtError, match="is the run of a transformer"):
        start(parts, data, tmp_path / "new", "captioner", init=str(other))
    for settings in (Settings("nano", out=str(runs / "captioner")), Settings("nano", init=str(runs / "captioner"))):
        with pytest.raises(CommonArtError, match="is the run of a captioner, and stage nano trains a transformer"):
            check_kind(Path(settings.out or settings.init), settings)


def test_the_card_names_parts_data_and_terms(runs: Path, parts: Path) -> None:
    card = (runs / "captioner" / "captioner" / "README.md").read_text("utf-8")
    described = captioner_run.run.read(runs / "captioner")
    assert card.startswith("---\nlicense: apache-2.0\nlanguage:\n- ja\n")
    for each in (
        described["data"]["fingerprint"],
        described["vision_tower"]["revision"],
        str(parts / "llama"),
        "| florence2 | r | MIT | ja | 8 |",
    ):
        assert each in card
    assert lookup.find_model(str(runs / "captioner"), "caption").license == "Apache-2.0"
    answered = captioner_run.card("x", {**described, "data": {**described["data"], "accepted": ["gemma"]}}, 3)
    assert answered.startswith("---\nlicense: other\n") and "terms of gemma were accepted" in answered


@pytest.mark.parametrize(
    ("licenses", "expected"),
    [(["MIT", "MIT"], "mit"), (["MIT", "Apache-2.0"], "apache-2.0"), (["CC-BY-4.0", "CC0-1.0"], "cc-by-4.0"),
     (["MIT", "LicenseRef-Gemma"], "other")],
)  # fmt: skip
def test_the_strictest_licence(licenses: list[str], expected: str) -> None:
    assert captioner_run.strictest(licenses) == expected


def test_bad_parts_and_options_are_a_sentence(parts: Path, data: Path, tmp_path: Path) -> None:
    def broken(name: str, change: Callable[[Path], Any]) -> str:
        shutil.copytree(parts / name, tmp_path / (folder := f"{name}{next(NUMBERS)}"))
        change(tmp_path / folder)
        return str(tmp_path / folder)

    def case(error: type[CommonArtError], what: str, fix: str, **settings: Any) -> None:
        refused(
            error, 2 if error is UsageError else 1, what, fix, lambda: start(parts, data, tmp_path / "run", **settings)
        )
        assert not (tmp_path / "run").exists()

    llama, tower = str(parts / "llama"), str(parts / "siglip")
    case(CommonArtError, "is a llama model, which cannot be", "SigLIP or a CLIP", vision_tower=llama)
    case(CommonArtError, "--language-model", "a tokenizer", language_model=tower)
    case(CommonArtError, "--vision-tower", "preprocessor_config.json",
         vision_tower=broken("siglip", lambda p: [f.unlink() for f in p.glob("*processor*")]))  # fmt: skip
    case(CommonArtError, "holds no *.safetensors", "save_pretrained",
         vision_tower=broken("siglip", lambda p: (p / "model.safetensors").unlink()))  # fmt: skip
    case(CommonArtError, "lack", "It needs config.json", vision_tower=broken("siglip", cut_weights))
    case(
        CommonArtError,
        "--language-model",
        "a tokenizer",
        language_model=broken("llama", lambda p: (p / "tokenizer.json").unlink()),
    )
    case(UsageError, "is not a vision-tower model", "Known names: nano, siglip", vision_tower="nothing")
    case(UsageError, "--text-encoder does not apply to stage captioner-align", "Leave it out", text_encoder="nano")
    case(UsageError, "--sample-every does not apply", "Leave it out", sample_every=5)
    case(UsageError, "stage captioner-align has no setting 'layers'", "Use one of optimizer", more={"layers": 3})
    case(
        CommonArtError,
        "has no checkpoint, and stage captioner starts",
        "Train captioner-align first",
        stage="captioner",
    )
    case(CommonArtError, "is not a run with checkpoints", "--vision-tower", init=llama)
    case(CommonArtError, "no caption in", "There are", languages={"de": 1.0})
    case(CommonArtError, "reads 30 tokens, and image and prompt take", "longer context",
         language_model=broken("llama", lambda p: edit(p / "config.json", max_position_embeddings=30)))  # fmt: skip
    refused(UsageError, 2, "--vision-tower does not apply to stage nano", "Leave it out",
            lambda: train_stage("nano", data=str(data), vision_tower="nano"))  # fmt: skip


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")


def cut_weights(folder: Path) -> None:
    from safetensors.torch import save_file

    state = load_file(folder / "model.safetensors")
    dropped = next(name for name in state if "vision_model" in name and "fc1.weight" in name)
    save_file({n: t for n, t in state.items() if n != dropped}, folder / "model.safetensors", metadata={"format": "pt"})


def test_other_parts_or_captions_are_another_run(runs: Path, parts: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "captioner-align", tmp_path / "run")
    refused(CommonArtError, 1, "vision_tower.name was", "start another run",
            lambda: start(parts, data, tmp_path / "run", vision_tower=str(parts / "clip"), more={"steps": 5}))  # fmt: skip
    refused(CommonArtError, 1, "was trained with vision_tower", "Use the same",
            lambda: start(parts, data, runs / "other", "captioner", vision_tower=str(parts / "clip")))  # fmt: skip


def test_tokens_that_the_language_model_lacks_are_added(parts: Path, data: Path, tmp_path: Path) -> None:
    """As CALM2, which has no image token."""
    tok = tiny.tokenizer()
    writer: Any = tiny.seeded(
        tiny.transformers.LlamaForCausalLM, tiny.transformers.LlamaConfig(**tiny.decoder_config(tok))
    )
    raw = tmp_path / "plain"
    tiny.save(raw, writer, tok)
    text = (raw / "tokenizer.json").read_text("utf-8").replace("<image>", "<other>")
    (raw / "tokenizer.json").write_text(text, "utf-8")
    llava, processor = captioner_parts.assemble(
        parts / "siglip", raw, raw, seed=0, frozen=torch.float32, trains="projector"
    )
    known = writer.get_input_embeddings().weight
    grown: Any = llava.get_input_embeddings().weight
    assert len(grown) == len(known) + 1 == len(processor.tokenizer) and torch.equal(grown[:-1], known)
    torch.testing.assert_close(grown[-1], known.mean(0))
    assert llava.config.image_token_id == len(known)
    start(parts, data, tmp_path / "run", language_model=str(raw))
    engine = Captioner.open(str(tmp_path / "run"), device="cpu", precision="fp32", max_new_tokens=4)
    assert isinstance(engine.caption([Image.new("RGB", (8, 8))], SHORT.texts[0])[0], Generated)


def test_a_dry_run_counts_what_is_there(parts: Path, data: Path) -> None:
    asked: Any = {"vision_tower": str(parts / "siglip"), "language_model": str(parts / "llama"), "device": "cpu"}
    plans = {
        stage: captioner_plan.plan(Settings(stage, data=str(data), overrides={"batch": 4}, **asked))
        for stage in ("captioner-align", "captioner")
    }
    llava, _ = captioner_parts.assemble(
        parts / "siglip", parts / "llama", parts / "llama", seed=0, frozen=torch.float32, trains="projector"
    )
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in llava.model.named_children()}
    head = llava.lm_head.weight.numel()
    for plan in plans.values():
        assert plan["parameters"] == sum(sizes.values()) + head and plan["data"]["images"] == 8
        assert plan["memory_bytes_per_device"]["total"] > 0 and "layers" not in plan["recipe"]
    assert plans["captioner-align"]["trained"] == sizes["multi_modal_projector"]
    assert plans["captioner"]["trained"] == sizes["multi_modal_projector"] + sizes["language_model"] + head
    small = {"batch": 4, "steps": 10}
    timed = captioner_plan.plan(Settings("captioner", data=str(data / "none"), overrides=small, **asked), 0.1)
    assert timed["data"]["images"].startswith("unknown") and timed["hours"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True])
def test_two_processes_are_one(parts: Path, data: Path, tmp_path: Path, fsdp: bool) -> None:
    more = {"micro_batch": 2, "lr": 1e-3}
    start(parts, data, tmp_path / "one", "captioner", more, init="none")
    start(parts, data, tmp_path / "two", "captioner", more, init="none", gpus=2, fsdp=fsdp)
    for a, b in zip(*(logging.read(tmp_path / r / "metrics.jsonl") for r in ("one", "two")), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
    one, two = (weights(tmp_path / run) for run in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=0, atol=1e-4)


def test_the_embedded_captioner_is_asked_what_it_was_trained_on() -> None:
    config = lookup.read_json(NANO_WEIGHTS / "captioner_ja" / "config.json")
    prompts = tuple(Prompt(lang, length, tuple(texts)) for lang, length, texts in config["commonart_prompts"])
    assert lookup.find_model("nano-ja", "caption").prompts == prompts
