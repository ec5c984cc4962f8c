"""What the watermark withstands, what it costs, and what it finds where there is none: `python tests/benchmarks/watermark.py`.

    python tests/benchmarks/watermark.py [--photographs FOLDER] [--unmarked 10000] [--nano 100]
    python tests/benchmarks/watermark.py --cost 500

Marked: generated scenes at 256 px and, with `--photographs`, those of a folder, whole and as squares of 256 px; each holds
48 random bits. Crops cut the tenth (fifth) of both sides at a random place. Unmarked: scenes, textures, crops of the
photographs, and images that nano generates, which have 64 px and are enlarged by the detector. `--cost` measures
the cost of the mark alone: how far sets of images that nano generates, enlarged to 256 px, are from each other with and without
it, as the embedded judge sees them.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from machine import processor
from PIL import Image, ImageEnhance
from scipy.ndimage import gaussian_filter

from commonart.core.nano import scenes
from commonart.core.output import watermark

Rng = np.random.Generator


def saved(image: Image.Image, kind: str, quality: int) -> Image.Image:
    """The image as a file of this kind shows it."""
    file = io.BytesIO()
    image.save(file, kind, quality=quality)
    return Image.open(file).convert("RGB")


def halved(image: Image.Image) -> Image.Image:
    """Half the size, and back."""
    small = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
    return small.resize(image.size, Image.Resampling.BICUBIC)


def cropped(image: Image.Image, share: float, rng: Rng) -> Image.Image:
    """Both sides shorter by `share`, at a random place."""
    width, height = round(image.width * (1 - share)), round(image.height * (1 - share))
    x, y = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    return image.crop((x, y, x + width, y + height))


ATTACKS: dict[str, Callable[[Image.Image, Rng], Image.Image]] = {
    "none": lambda image, rng: image,
    "JPEG q75": lambda image, rng: saved(image, "JPEG", 75),
    "JPEG q50": lambda image, rng: saved(image, "JPEG", 50),
    "WebP q75": lambda image, rng: saved(image, "WEBP", 75),
    "half the size and back": lambda image, rng: halved(image),
    "0.7 of the size": lambda image, rng: image.resize((round(image.width * 0.7), round(image.height * 0.7))),
    "crop 10 %": lambda image, rng: cropped(image, 0.1, rng),
    "crop 20 %": lambda image, rng: cropped(image, 0.2, rng),
    "crop 10 %, JPEG q75": lambda image, rng: saved(cropped(image, 0.1, rng), "JPEG", 75),
    "half and back, JPEG q75": lambda image, rng: saved(halved(image), "JPEG", 75),
    "mirrored": lambda image, rng: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "brightness 1.2": lambda image, rng: ImageEnhance.Brightness(image).enhance(1.2),
    "turned by 2 degrees": lambda image, rng: image.rotate(2, Image.Resampling.BICUBIC),
}


def psnr(a: Image.Image, b: Image.Image) -> float:
    """10 log10(255^2 / MSE) over RGB."""
    error = np.asarray(a, float) - np.asarray(b, float)
    return float(10 * np.log10(255**2 / (error**2).mean()))


def ssim(a: Image.Image, b: Image.Image) -> float:
    """Wang et al. 2004 on brightness, with a Gaussian window of 1.5 pixels."""
    x, y = (np.asarray(image.convert("L"), float) for image in (a, b))
    mx, my = gaussian_filter(x, 1.5), gaussian_filter(y, 1.5)
    vx, vy, c = (gaussian_filter(p, 1.5) - q for p, q in ((x * x, mx * mx), (y * y, my * my), (x * y, mx * my)))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(((2 * mx * my + c1) * (2 * c + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


def square(image: Image.Image, side: int = 256) -> Image.Image:
    """The middle of an image, scaled."""
    short = min(image.size)
    x, y = (image.width - short) // 2, (image.height - short) // 2
    return image.crop((x, y, x + short, y + short)).resize((side, side), Image.Resampling.LANCZOS)


def scene(rng: Rng) -> Image.Image:
    """A generated scene of 256 px."""
    return Image.fromarray(scenes.render(scenes.random_scene(rng), 256))


def marked(images: Sequence[Image.Image], rng: Rng) -> dict[str, Any]:
    """Accuracy of bits by attack, and quality, of images that hold random bits."""
    right: dict[str, list[float]] = {name: [] for name in ATTACKS}
    found: dict[str, list[bool]] = {name: [] for name in ATTACKS}
    quality, embedding, detecting = list[tuple[float, float]](), 0.0, 0.0
    for image in images:
        bits = rng.integers(0, 2, watermark.BITS).astype(bool)
        started = time.process_time()
        made = watermark.embed(image, bits)
        embedding += time.process_time() - started
        quality.append((psnr(image, made), ssim(image, made)))
        for name, attack in ATTACKS.items():
            attacked = attack(made, rng)
            started = time.process_time()
            detection = watermark.detect(attacked, bits)
            detecting += time.process_time() - started
            right[name].append(detection.matches / watermark.BITS)
            found[name].append(detection.found)
    return {
        "images": len(images),
        "psnr": {
            "mean": round(float(np.mean([q[0] for q in quality])), 2),
            "least": round(min(q[0] for q in quality), 2),
        },
        "ssim": {
            "mean": round(float(np.mean([q[1] for q in quality])), 4),
            "least": round(min(q[1] for q in quality), 4),
        },
        "cpu_ms": {
            "embed": round(embedding / len(images) * 1e3),
            "detect": round(detecting / len(images) / len(ATTACKS) * 1e3),
        },
        "bit_accuracy": {name: round(float(np.mean(values)), 4) for name, values in right.items()},
        "least_bit_accuracy": {name: round(min(values), 4) for name, values in right.items()},
        "found": {name: round(float(np.mean(values)), 4) for name, values in found.items()},
    }


def textures(rng: Rng) -> Iterator[Image.Image]:
    """Noise of all widths, on a slope, without end."""
    while True:
        grain = gaussian_filter(rng.normal(size=(256, 256, 3)), (*(float(rng.uniform(0, 8)),) * 2, 0))
        slope = np.linspace(0, rng.uniform(-100, 100), 256)[:, None, None]
        pixels = 128 + slope + grain / grain.std() * rng.uniform(1, 60)
        yield Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def nano_images(count: int, prompts: Sequence[str] = ()) -> list[Image.Image]:
    """What the embedded model generates, of red circles or of these prompts, four steps each."""
    from commonart.core.generation.request import GenerationConfig, ImageRequest, ModelSpec
    from commonart.core.generation.session import open_generator

    generator = open_generator(ModelSpec("nano", device="cpu"))
    requests = [ImageRequest(prompts[n] if prompts else f"a large red circle number {n}", n) for n in range(count)]
    return list(generator.generate(requests, GenerationConfig(steps=4), batch=16))


def cost(count: int) -> dict[str, Any]:
    """Distances of marked sets to unmarked ones, by the embedded dual encoder, beside those of unmarked sets."""
    from commonart.core.metrics import fid, kernel_distance
    from commonart.core.metrics.clip_score import DualEncoder
    from commonart.core.nano import grammar

    judge = DualEncoder.load("nano", device="cpu")
    prompts = [prompt for _, prompt in grammar.eval_prompts(count, "en", seed=0)]
    plain = [square(image) for image in nano_images(count, prompts)]
    started = time.process_time()
    made = [watermark.embed(image) for image in plain]
    seconds = time.process_time() - started
    without, with_mark = judge.encode_images(plain), judge.encode_images(made)
    half = count // 2
    pairs = {
        "all, marked : the same, unmarked": (with_mark, without),
        "one half, unmarked : the other, unmarked": (without[:half], without[half:]),
        "one half, marked : the other, unmarked": (with_mark[:half], without[half:]),
    }
    return {
        "images": count, "psnr": round(float(np.mean([psnr(a, b) for a, b in zip(plain, made, strict=True)])), 2),
        "found": sum(watermark.detect(image).found for image in made), "embed_cpu_ms": round(seconds / count * 1e3),
        "distances": {name: {
            "FD-nano-clip": round(fid.frechet(fid.fit(a), fid.fit(b)), 5), "KID-nano": round(kernel_distance.kid(a, b)[0], 6),
            "CMMD-nano": round(kernel_distance.cmmd(a, b)[0], 4),
        } for name, (a, b) in pairs.items()},
    }  # fmt: skip


def matches_of(image: Image.Image) -> int:
    """How many of the project's bits an image matches."""
    return watermark.detect(image).matches


def unmarked(images: Iterator[Image.Image], jobs: int) -> dict[str, Any]:
    """How many of the project's bits images match that do not hold them."""
    found = list[int]()
    with ProcessPoolExecutor(jobs) as pool:
        while batch := list(islice(images, 200)):  # 40 MB
            found += pool.map(matches_of, batch, chunksize=10)
            print(f"{len(found)} unmarked, at most {max(found)} of {watermark.BITS} bits", file=sys.stderr, flush=True)
    matches = np.array(found)
    p_values = [sum(p_of(k) for k in range(m, watermark.BITS + 1)) for m in matches]
    return {
        "images": len(matches), "found": int(sum(p < watermark.LIMIT for p in p_values)), "least_p_value": min(p_values),
        "most_matches": int(matches.max()), "mean_matches": round(float(matches.mean()), 3),
        "variance": round(float(matches.var()), 3), "binomial": {"mean": watermark.BITS / 2, "variance": watermark.BITS / 4},
        "share_below": {str(p): round(float(np.mean([v < p for v in p_values])), 5) for p in (0.1, 0.01, 0.001)},
    }  # fmt: skip


def p_of(matches: int) -> float:
    """The chance of exactly so many matches."""
    from scipy.stats import binom

    return float(binom.pmf(matches, watermark.BITS, 0.5))


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=Path, help="folder of photographs, which are measured on and not kept")
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--unmarked", type=int, default=10_000)
    parser.add_argument("--nano", type=int, default=100)
    parser.add_argument(
        "--cost", type=int, help="measure nothing but the cost of the mark, on this number of nano images"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes for the unmarked ones")
    asked = parser.parse_args()
    about = {"benchmark": "tests/benchmarks/watermark.py", "date": time.strftime("%Y-%m-%d"), "machine": processor()}
    if asked.cost:
        print(json.dumps({**about, "bits": watermark.BITS, "cost": cost(asked.cost)}, indent=1))
        return
    rng = np.random.default_rng(0)
    files = sorted(asked.photographs.iterdir()) if asked.photographs else []
    photographs = [Image.open(path).convert("RGB") for path in files]
    sets = {"scenes of 256 px": [scene(rng) for _ in range(asked.scenes)]}
    if photographs:
        sets |= {"photographs of 256 px": [square(image) for image in photographs], "photographs, whole": photographs}
    result = {name: marked(images, rng) for name, images in sets.items()}
    made = nano_images(asked.nano)

    def each() -> Iterator[Image.Image]:
        texture = textures(rng)
        yield from made
        for number in range(asked.unmarked - len(made)):
            if photographs and number % 5 < 2:
                photograph = photographs[number % len(photographs)]
                yield square(cropped(photograph, float(rng.uniform(0, 0.7)), rng))
            else:
                yield next(texture) if number % 5 == 2 else scene(rng)

    print(json.dumps({
        **about, "bits": watermark.BITS, "marked": result, "unmarked": unmarked(each(), asked.jobs),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
