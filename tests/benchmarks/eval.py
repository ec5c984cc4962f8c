"""Images a second through `eval`'s Inception and CLIP, beside clean-fid's own loop and open_clip by hand.

    python tests/benchmarks/eval.py [--images 64] [--rounds 3] [-o FILE]

Both sides run the same networks in the same precision on the same JPEG files (made here, 640x480, as COCO's), turn by turn;
their features are compared, too. The networks have random weights, which cost as much as trained ones: FID's Inception as
clean-fid builds it, and ViT-B/32. On a CPU the seconds are CPU seconds of the process and its workers beside those of the
clock, for the machine may be busy.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import processor
from PIL import Image


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    parser.add_argument("-o", "--out", help="write the result here too")
    return parser.parse_args()


def main() -> None:
    """Print one JSON object."""
    given = arguments()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import open_clip
    import torch
    from cleanfid import inception_pytorch
    from cleanfid.fid import get_files_features

    from commonart.core.metrics import features, fid
    from commonart.core.metrics.features import Encoder
    from commonart.core.metrics.image_set import ImageRef

    if given.threads:
        torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    device = torch.device(given.device)
    inception_pytorch.load_state_dict_from_url = (
        lambda *_, **__: {}
    )  # its random weights stand in for the published ones
    load = torch.nn.Module.load_state_dict
    torch.nn.Module.load_state_dict = lambda *_, **__: None  # type: ignore[assignment]
    inception = inception_pytorch.InceptionV3(output_blocks=[3], resize_input=False).to(device).eval()
    torch.nn.Module.load_state_dict = load  # type: ignore[method-assign]
    clip, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32-quickgelu", device=device)
    clip.eval()

    def network(pixels: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return inception(pixels / 255)[0].flatten(1)

    def embed(pixels: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return clip.encode_image(pixels.to(device))

    with tempfile.TemporaryDirectory() as folder:
        paths = [str(path) for path in pictures(Path(folder), given.images)]
        items = [ImageRef(path, {}) for path in paths]
        by_inception = fid.encoder("clean", given.device, network)
        by_clip = Encoder("clip", preprocess, embed)

        def ours(*encoders: Encoder) -> dict[str, Any]:
            return dict(features.extract(items, encoders).rows)

        def theirs(workers: int) -> Any:
            return get_files_features(paths, network, workers, 32, device, "clean", verbose=False)

        def by_hand() -> Any:
            rows = []
            for start in range(0, len(paths), 32):
                batch = [preprocess(Image.open(path).convert("RGB")) for path in paths[start : start + 32]]
                rows.append(embed(torch.stack(batch)).cpu().numpy())
            return np.concatenate(rows)

        sides: dict[str, Callable[[], Any]] = {
            "FID: commonart": lambda: ours(by_inception),
            "FID: clean-fid, 0 workers": lambda: theirs(0),
            "FID: clean-fid, 2 workers": lambda: theirs(2),
            "CLIP: commonart": lambda: ours(by_clip),
            "CLIP: open_clip by hand": by_hand,
            "both: commonart": lambda: ours(by_inception, by_clip),
            "both: clean-fid, 0 workers, then open_clip": lambda: (theirs(0), by_hand()),
        }
        error = np.abs(ours(by_inception)[by_inception.name] - theirs(0)).max()
        clip_error = np.abs(ours(by_clip)["clip"] - by_hand()).max()
        rates: dict[str, list[float]] = {name: [] for name in sides}
        spent: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(given.rounds):
            for name, side in sides.items():
                before, started = cpu_seconds(), time.perf_counter()
                side()
                rates[name].append(given.images / (time.perf_counter() - started))
                spent[name].append((cpu_seconds() - before) / given.images)
    packages = ("torch", "clean-fid", "open_clip_torch", "pillow")
    result = {
        "images_per_second": {name: round(statistics.median(values), 2) for name, values in rates.items()},
        "cpu_ms_per_image": {name: round(1000 * min(values), 1) for name, values in spent.items()},
        "largest_difference_of_a_feature": {"inception": float(error), "clip": float(clip_error)},
        "images": given.images, "rounds": given.rounds, "device": given.device, "threads": torch.get_num_threads(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "machine": processor(), "date": datetime.date.today().isoformat(),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if given.out:
        Path(given.out).write_text(json.dumps(result, indent=1) + "\n")


def pictures(folder: Path, count: int) -> list[Path]:
    """JPEGs of 640x480 with the detail of photographs: noise at several scales."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        layers = [
            np.asarray(
                Image.fromarray(rng.integers(0, 256, (side * 3 // 4, side, 3), dtype=np.uint8)).resize((640, 480))
            )
            for side in (8, 40, 160)
        ]
        path = folder / f"{number:05d}.jpg"
        Image.fromarray(np.mean(layers, axis=0).astype(np.uint8)).save(path, quality=92)
        paths.append(path)
    return paths


def cpu_seconds() -> float:
    """Of this process and of its workers that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
