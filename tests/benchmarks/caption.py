"""Captions per second, beside the loops that one would write with transformers: `python tests/benchmarks/caption.py`.

(a) one by one and (b) in batches of 8: open the file, processor, generate, decode. (c) is `commonart caption` as it is,
from a folder of shards to a folder of shards, without the start of Python and the loading of the model. Same model, weights,
precision and pictures (JPEGs of 640 x 480 and other shapes, none larger than --side), in turns, medians of --rounds.

The models are of the real classes with random weights, of a size that a CPU carries; random weights never end a text, so a
logits processor ends each one at a length that its image chooses, 15 to 120 tokens, 50 on average. What the guards
say is computed, and not heeded: random text is no caption. `nano` is the embedded captioner, on scenes, as it is.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # before torch, as the command has it: threads that wait cost nothing

import numpy as np
import torch
import transformers
from machine import processor
from PIL import Image

from commonart.core.data import stream
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.model.captioning import guards
from commonart.core.model.captioning.captioners import Captioner
from commonart.core.model.captioning.requests import Request, Tally, settings
from commonart.core.nano import scenes
from commonart.core.registry.hub import resolve_model
from commonart.core.registry.lookup import find_model
from commonart.stages import caption as stage

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))
import tiny_language_models as tiny

SHAPES = ((640, 480), (640, 427), (480, 640), (768, 512), (640, 360), (500, 500))  # width, height
SHORTEST, LONGEST = 15, 120  # tokens of a text
CHOICES, LOW = 200, -1e4


class EndsInTime(transformers.LogitsProcessor):
    """Makes an image choose the first token of its text, and that token the length, at which it ends the text."""

    def __init__(self, offset: int, ends: list[int], specials: int) -> None:
        self.offset, self.ends, self.specials = offset, ends, specials

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        start = ((input_ids < self.specials) * places).max(
            1
        ).values + self.offset  # so far behind the last special token
        length = input_ids.shape[1] - start
        if length.max() == 0:
            choice = (scores[:, 20:84] * places.new_tensor(range(1, 65))).sum(1).abs() * 1000 % CHOICES
            scores[:] = LOW
            scores[torch.arange(len(scores), device=scores.device), self.specials + choice.long()] = 0.0
            return scores
        scores[:, : self.specials] = LOW
        # Of a row that has ended, and is padded, anything will do.
        first = input_ids.gather(1, start[:, None].clamp(max=len(places) - 1)).squeeze(1) - self.specials
        # Squared, so that short ones are frequent: 50 tokens on average.
        over = length >= SHORTEST + (LONGEST - SHORTEST) * (first / CHOICES) ** 2
        scores[over] = LOW
        scores[over, self.ends[0]] = 0.0
        return scores


def pictures(count: int) -> list[bytes]:
    """JPEGs that look like nothing, with the detail of photographs."""
    rng = np.random.default_rng(0)
    files = []
    for n in range(count):
        width, height = SHAPES[n % len(SHAPES)]
        layers = [
            rng.integers(0, 255, (max(2, height // k), max(2, width // k), 3), dtype=np.uint8) for k in (160, 40, 8)
        ]
        images = [Image.fromarray(layer).resize((width, height), Image.Resampling.BICUBIC) for layer in layers]
        mixed = Image.blend(Image.blend(images[0], images[1], 0.4), images[2], 0.2)
        file = io.BytesIO()
        mixed.save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def scene_files(count: int) -> list[bytes]:
    """PNGs of scenes, for nano."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(count):
        file = io.BytesIO()
        Image.fromarray(scenes.render(scenes.random_scene(rng))).save(file, "PNG")
        files.append(file.getvalue())
    return files


def qwen2_vl(folder: Path) -> Path:
    """Qwen2-VL with 2.5 M parameters and its own size of patches and pictures."""
    tok = tiny.tokenizer()
    images = transformers.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=1280 * 28 * 28)
    text = {
        **tiny.decoder_config(tok), "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 4096,
        "rope_parameters": {**tiny.ROPE, "mrope_section": [4, 6, 6]},
    }  # fmt: skip
    vision = {"depth": 2, "embed_dim": 128, "hidden_size": 192, "num_heads": 4, "mlp_ratio": 2}
    config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **tiny.qwen_token_ids(tok))
    made = transformers.Qwen2VLProcessor(
        images, tok, transformers.Qwen2VLVideoProcessor(), chat_template=tiny.QWEN_CHAT
    )
    return tiny.save(folder, tiny.seeded(transformers.Qwen2VLForConditionalGeneration, config), made)


def florence2(folder: Path) -> Path:
    """Florence-2 at 224 px with 4 M parameters, three beams as its checkpoint has."""
    tok = tiny.tokenizer(extra_special_tokens={"image_token": "<image>"})
    images = tiny.clip_images(224)
    images.image_seq_length = 50
    config = transformers.Florence2Config(
        image_token_id=tok.image_token_id, decoder_start_token_id=tok.eos_token_id, **tiny.ids(tok),
        vision_config={
            "depths": [1, 1, 2, 1], "patch_size": [7, 3, 3, 3], "patch_stride": [4, 2, 2, 2], "patch_padding": [3, 1, 1, 1],
            "patch_prenorm": [False, True, True, True], "embed_dim": [16, 32, 64, 128], "num_heads": [2, 2, 4, 4],
            "num_groups": [2, 2, 4, 4], "window_size": 7, "drop_path_rate": 0.0, "projection_dim": 192,
        },
        text_config={
            "model_type": "bart", "vocab_size": len(tok), "d_model": 192, "encoder_layers": 3, "decoder_layers": 3,
            "encoder_attention_heads": 6, "decoder_attention_heads": 6, "encoder_ffn_dim": 768, "decoder_ffn_dim": 768,
            "max_position_embeddings": 1024, "decoder_start_token_id": tok.eos_token_id, "forced_eos_token_id": None,
            "tie_word_embeddings": True, **tiny.ids(tok),
        },
    )  # fmt: skip
    model = tiny.seeded(transformers.Florence2ForConditionalGeneration, config)
    model.generation_config.decoder_start_token_id = tok.eos_token_id
    model.generation_config.num_beams = 3
    return tiny.save(folder, model, transformers.Florence2Processor(image_processor=images, tokenizer=tok))


def llava(folder: Path) -> Path:
    """LLaVA from SigLIP at 224 px and Llama, 2.5 M parameters."""
    tok = tiny.tokenizer(extra_special_tokens={"image_token": "<image>"})
    images = transformers.SiglipImageProcessor(size={"height": 224, "width": 224})
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3,
        "num_attention_heads": 4, "image_size": 224, "patch_size": 16, "vision_use_head": False,
    }  # fmt: skip
    text = {
        "model_type": "llama", **tiny.decoder_config(tok), "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4,
        "num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 32, "max_position_embeddings": 2048,
    }  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=tok.image_token_id, vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )  # fmt: skip
    made = transformers.LlavaProcessor(images, tok, patch_size=16, vision_feature_select_strategy="full")
    return tiny.save(folder, tiny.seeded(transformers.LlavaForConditionalGeneration, config), made)


MODELS: dict[str, Callable[[Path], Path]] = {"qwen2-vl": qwen2_vl, "florence2": florence2, "llava": llava}


def loop(captioner: Captioner, files: list[Path], prompt: str, size: int) -> tuple[int, int]:
    """What one writes with transformers; returns the numbers of captions and tokens."""
    loaded, texts, tokens = captioner.loaded, [], 0
    decoder_only = not loaded.model.config.is_encoder_decoder
    if decoder_only:
        loaded.processor.tokenizer.padding_side = "left"
    for start in range(0, len(files), size):
        images = [Image.open(file).convert("RGB") for file in files[start : start + size]]
        inputs = loaded.processor(text=[prompt] * len(images), images=images, return_tensors="pt", padding=True)
        inputs = inputs.to(loaded.device, loaded.dtype)
        with torch.inference_mode():
            ids = loaded.model.generate(**inputs, max_new_tokens=captioner.max_new_tokens, do_sample=False)
        ids = ids[:, inputs["input_ids"].shape[1] :] if decoder_only else ids
        texts += loaded.processor.batch_decode(ids, skip_special_tokens=True)
        tokens += int((ids != loaded.processor.tokenizer.pad_token_id).sum())
    return len(texts), tokens


def ours(request: Request, shards: Path, out: Path, batch: int | None) -> tuple[int, int]:
    """The stage as the command runs it."""
    tally = Tally()
    summary = stream.run(
        "caption", lambda records, drop: stage.caption(records, drop, requests=[request], batch=batch, tally=tally),
        source=str(shards), out=str(out), quiet=True, settings=settings([request]),
    )  # fmt: skip
    assert summary.written == summary.read, summary.as_json()
    return tally.captions, tally.tokens


def question(captioner: Captioner) -> str:
    """The text that the processor is given for the usual prompt."""
    prompt = captioner.model.prompts[0].texts[0]
    if "Qwen" in captioner.model.cls:
        turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
        return str(captioner.loaded.processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    return f"USER: <image>\n{prompt}\nASSISTANT:" if "Llava" in captioner.model.cls else prompt


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Captions per second of the three ways with one model."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = find_model("nano" if name == "nano" else str(MODELS[name](folder / "model")), "caption")
        captioner = Captioner(
            resolve_model(model), device=options.device, precision=options.precision, quantize=options.quantize, side=768,
            accepted=True,
        )  # fmt: skip
        request = Request(captioner, captioner.model.prompts[0])
        data = scene_files(options.pictures) if name == "nano" else pictures(options.pictures)
        files = []
        with ShardWriter(folder / "in" / "00000.tar") as writer:
            for n, file in enumerate(data):
                ending = "png" if name == "nano" else "jpg"
                files.append(folder / f"{n}.{ending}")
                files[-1].write_bytes(file)
                writer.add_record({"key": f"k{n}"}, file, ending)
        if name != "nano":
            end_in_time(captioner)
            judge = guards.problem
            guards.problem = lambda *args, **kwargs: judge(*args, **kwargs) and ""
        asked = question(captioner)
        ways: dict[str, Callable[[int], tuple[int, int]]] = {
            "one_by_one": lambda _: loop(captioner, files[: options.alone], asked, 1),
            "batches_of_8": lambda _: loop(captioner, files, asked, 8),
            "commonart": lambda n: ours(request, folder / "in", folder / f"out{n}", options.batch),
        }
        batch = options.batch or captioner.largest_batch
        loop(captioner, files[:8], asked, 8)  # warm
        clock: dict[str, list[float]] = {way: [] for way in ways}
        cpu: dict[str, list[float]] = {way: [] for way in ways}
        lengths: dict[str, float] = {}
        for n in range(options.rounds):
            for way, run in ways.items():
                gc.collect()
                started, spent = time.perf_counter(), time.process_time()
                count, tokens = run(n)
                clock[way].append(count / (time.perf_counter() - started))
                cpu[way].append(count / (time.process_time() - spent))
                lengths[way] = round(tokens / count, 1)
    medians = {way: round(statistics.median(values), 3) for way, values in clock.items()}
    by_cpu = {way: round(statistics.median(values), 3) for way, values in cpu.items()}
    return {
        "class": captioner.model.cls, "parameters": sum(p.numel() for p in captioner.loaded.model.parameters()), "batch": batch,
        "tokens_per_caption": lengths, "captions_per_second": medians, "captions_per_cpu_second": by_cpu,
        "times_batches_of_8": round(statistics.median(np.divide(clock["commonart"], clock["batches_of_8"])), 2),
        "times_batches_of_8_cpu": round(statistics.median(np.divide(cpu["commonart"], cpu["batches_of_8"])), 2),
        "times_one_by_one": round(statistics.median(np.divide(clock["commonart"], clock["one_by_one"])), 2),
        "rounds": {way: [round(value, 3) for value in values] for way, values in clock.items()},
    }  # fmt: skip


def end_in_time(captioner: Captioner) -> None:
    """Have `generate` end the texts of a model with random weights."""
    model = captioner.loaded.model
    ends = model.generation_config.eos_token_id
    specials = len(tiny.SPECIAL + tiny.QWEN)
    offset = 1  # of a decoder that begins with its start token
    if not model.config.is_encoder_decoder:
        ids = captioner.prepare([Image.new("RGB", (640, 480))], captioner.model.prompts[0].texts[0]).tensors[
            "input_ids"
        ][0]
        offset = len(ids) - int((ids < specials).nonzero().max())
    make = model._get_logits_processor

    def with_end(*args: Any, **kwargs: Any) -> Any:
        made = make(*args, **kwargs)
        made.append(EndsInTime(offset, ends if isinstance(ends, list) else [ends], specials))
        return made

    model._get_logits_processor = with_end


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="nano,qwen2-vl,florence2,llava")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--alone", type=int, default=24, help="pictures of the loop one by one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--quantize", help="bnb-nf4 (4-bit), bnb-int8, quanto-int8 or torchao-int8: of both sides")
    parser.add_argument("--out", type=Path, help="write the JSON there too, for example into tests/benchmarks/results/")
    options = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.utils.logging.set_verbosity_error()
    told = {
        **vars(options), "out": str(options.out), "results": {name: measure(name, options) for name in options.models.split(",")},
        "torch": torch.__version__, "transformers": transformers.__version__, "threads": torch.get_num_threads(),
        "python": platform.python_version(), "processor": processor(), "load": os.getloadavg(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None, "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
    print(json.dumps(told))
    if options.out:
        options.out.write_text(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
