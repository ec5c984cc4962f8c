"""One picture, and many, beside diffusers' PixArtSigmaPipeline: `python tests/benchmarks/sample.py [--layers 28]`.

Both get the same weights (random, in the shapes of PixArt-Sigma XL/2 and SDXL's autoencoder), text states, noise, steps
and precision, in one run, turn by turn; the pictures are compared too. diffusers pads its text to 300 tokens, as its
pipeline always does; ours is as long as the prompt. On a CPU the seconds are CPU seconds, which other work on the
machine stretches less than the clock; on a GPU, the clock's. The best of ROUNDS is told.

torch and transformers are enough: without diffusers, which brings the autoencoder's class, ours alone is timed, up to
the latents, and that is said. The result goes to stdout, and with `-o` to a file.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import processor

ROOT = Path(__file__).resolve().parents[2]
CHANNELS, TOKENS, PADDED = 4096, 24, 300  # of the text: T5-XXL's and CALM2's width, a usual prompt, diffusers' length


def find_commonart() -> None:
    """Where the package is not installed (a borrowed GPU machine), take it from this checkout."""
    if importlib.util.find_spec("commonart") is None:
        link = Path(tempfile.mkdtemp()) / "commonart"
        link.symlink_to(ROOT)
        sys.path.insert(0, str(link.parent))
    if importlib.util.find_spec("orjson") is None:  # read by modules that this benchmark never calls
        sys.modules["orjson"] = types.ModuleType("orjson")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--layers", type=int, default=4, help="28 is PixArt-Sigma XL/2")
    parser.add_argument("--size", type=int, default=256, help="pixels")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--pictures", type=int, default=4, help="of the throughput's batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--compile", action="store_true", help="both transformers through torch.compile")
    parser.add_argument("-o", "--out", help="write the result here too")
    return parser.parse_args()


def main() -> None:
    """Print one JSON object."""
    given = arguments()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    find_commonart()
    import torch

    from commonart.core.model import sampler
    from commonart.core.model.config import PixArtConfig
    from commonart.core.model.device import dtype_name, pick_device, pick_matmul_dtype
    from commonart.core.model.onednn import pack
    from commonart.core.model.transformer import PixArt

    torch.set_num_threads(given.threads)
    device = pick_device(given.device)
    dtype = pick_matmul_dtype(given.precision, device)
    both = importlib.util.find_spec("diffusers") is not None
    torch.manual_seed(0)
    scale = given.size // 8
    config = PixArtConfig(num_layers=given.layers, sample_size=scale, interpolation_scale=scale / 64)
    ours = PixArt(config)
    torch.nn.init.normal_(ours.proj_out.weight, std=0.02)
    for block in ours.transformer_blocks:
        torch.nn.init.normal_(block.attn2.to_out[0].weight, std=0.02)  # type: ignore[union-attr, index, arg-type]
    ours = ours.to(device, dtype).eval().requires_grad_(False)
    null = torch.randn(1, CHANNELS, device=device, dtype=dtype)

    def inputs(count: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        made = torch.Generator().manual_seed(count)
        texts = [torch.randn(TOKENS, CHANNELS, generator=made).to(device, dtype) for _ in range(count)]
        return sampler.noise_for(range(count), (4, scale, scale)), texts

    sides: dict[str, Callable[[int], Any]] = {}
    if both:  # before ours are packed: both have the same weights
        theirs, autoencoder = _diffusers(ours, dtype, device, given.compile)
    net: Any = torch.compile(ours) if given.compile else pack(ours)
    if both:
        from commonart.core.generation.pipeline import decoder
        from commonart.core.model.autoencoder import to_images

        decoding = decoder(autoencoder)

        def draw(count: int) -> Any:
            noise, texts = inputs(count)
            latents = sampler.sample(net, noise, texts, null, given.steps, 4.5, "eps")
            return [to_images(decoding.decode(latent[None]))[0] for latent in latents]

        def draw_theirs(count: int) -> Any:
            noise, texts = inputs(count)
            pad = [torch.nn.functional.pad(text, (0, 0, 0, PADDED - TOKENS)) for text in texts]
            mask = torch.zeros(count, PADDED, dtype=torch.long, device=device)
            no_mask = mask.clone()
            mask[:, :TOKENS], no_mask[:, :1] = 1, 1
            return theirs(
                prompt_embeds=torch.stack(pad), prompt_attention_mask=mask, negative_prompt=None,
                negative_prompt_embeds=torch.nn.functional.pad(null, (0, 0, 0, PADDED - 1)).expand(count, -1, -1),
                negative_prompt_attention_mask=no_mask, num_inference_steps=given.steps, guidance_scale=4.5,
                latents=noise.to(device, dtype), height=given.size, width=given.size, use_resolution_binning=False,
            ).images  # fmt: skip

        sides = {"commonart": draw, "diffusers": draw_theirs}
    else:
        print("diffusers is not installed: ours alone, up to the latents", file=sys.stderr)

        def draw_latents(count: int) -> Any:
            noise, texts = inputs(count)
            return sampler.sample(net, noise, texts, null, given.steps, 4.5, "eps").sum().item()

        sides = {"commonart": draw_latents}

    found = {name: {"one": float("inf"), "many": float("inf")} for name in sides}
    for turn in range(given.rounds + 1):  # the first warms up
        for name, side in sides.items():
            for kind, count in (("one", 1), ("many", given.pictures)):
                seconds = _seconds(lambda side=side, count=count: side(count), device)
                if turn:
                    found[name][kind] = min(found[name][kind], seconds)
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(), "hardware": _hardware(device), "threads": given.threads,
        "clock": "wall" if device.type == "cuda" else "cpu", "precision": dtype_name(dtype), "layers": given.layers,
        "size": given.size, "steps": given.steps, "pictures": given.pictures, "compile": given.compile,
        "up_to": "picture" if both else "latents", "versions": _versions(),
        "seconds_of_one": {name: round(times["one"], 3) for name, times in found.items()},
        "images_per_second": {name: round(given.pictures / times["many"], 4) for name, times in found.items()},
    }  # fmt: skip
    if both:
        import numpy as np

        pairs = zip(draw(1), draw_theirs(1), strict=True)
        result["mean_difference_of_255"] = round(
            max(float(np.abs(np.asarray(a).astype(int) - np.asarray(b)).mean()) for a, b in pairs), 3
        )
        result["speedup"] = {
            kind: round(found["diffusers"][kind] / found["commonart"][kind], 2) for kind in ("one", "many")
        }
    text = json.dumps(result, indent=1)
    print(text)
    if given.out:
        Path(given.out).write_text(text + "\n", encoding="utf-8")


def _diffusers(ours: Any, dtype: Any, device: Any, compiled: bool) -> tuple[Any, Any]:
    """Their pipeline on the same weights, and the autoencoder that both decode with, as ours holds it."""
    import torch
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    from commonart.core.model.autoencoder import Autoencoder
    from commonart.core.model.sampler import scheduler_config

    with tempfile.TemporaryDirectory() as folder:
        ours.save(f"{folder}/transformer")
        theirs = PixArtTransformer2DModel.from_pretrained(f"{folder}/transformer", torch_dtype=dtype).to(device)
        torch.manual_seed(1)
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=1024,
            scaling_factor=0.13025,
        ).save_pretrained(f"{folder}/vae")  # fmt: skip
        vae = AutoencoderKL.from_pretrained(f"{folder}/vae", torch_dtype=dtype).to(device)
        autoencoder = Autoencoder.load(f"{folder}/vae", dtype, device=device)
    pipe = PixArtSigmaPipeline(
        tokenizer=None, text_encoder=None, vae=vae, transformer=torch.compile(theirs) if compiled else theirs,
        scheduler=DPMSolverMultistepScheduler.from_config(scheduler_config("eps")),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe, autoencoder


def _seconds(work: Callable[[], Any], device: Any) -> float:
    import torch

    clock = time.perf_counter if device.type == "cuda" else time.process_time
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def _hardware(device: Any) -> str:
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    return f"{processor()}, {os.cpu_count()} cores"


def _versions() -> dict[str, str]:
    known = {d.metadata["Name"].lower() for d in importlib.metadata.distributions() if d.metadata["Name"]}
    wanted = ("torch", "diffusers", "transformers")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in wanted if n in known}


if __name__ == "__main__":
    main()
