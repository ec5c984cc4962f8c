"""Turn pickled weights into safetensors, in a process of its own that holds no secrets.

    python -m commonart.core.registry.pickle_conversion FOLDER_WITH_BIN OUT

`torch.load(weights_only=True)` admits tensors and plain containers and nothing that could run code. Each
`NAME.bin` becomes `NAME.safetensors`, one at a time, so memory holds one shard; an index is rewritten to match.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def convert(source: Path, out: Path) -> list[Path]:
    """Write `out/NAME.safetensors` for every weights file `source/NAME.bin`, in sub-folders too; return those written.

    Raises:
        ValueError: a file holds anything but tensors.
        pickle.UnpicklingError: a file holds code.
    """
    import torch
    from safetensors.torch import save_file

    written = []
    names = [p for glob in ("pytorch_model*.bin", "diffusion_pytorch_model*.bin") for p in sorted(source.rglob(glob))]
    if not names:
        raise ValueError(f"{source} holds no pytorch_model*.bin")
    for path in names:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=_zipped(path))
        state = state.get("state_dict", state) if isinstance(state, dict) else state
        if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
            raise ValueError(f"{path.name} holds more than tensors")
        target = out / path.relative_to(source).with_name(_renamed(path.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        # Tied weights share memory, which safetensors refuses: each name gets its own copy.
        save_file({k: v.contiguous().clone() for k, v in state.items()}, target, metadata={"format": "pt"})
        written.append(target)
    for index in source.glob("*.bin.index.json"):
        value = {"metadata": {}, **json.loads(index.read_text(encoding="utf-8"))}  # transformers asks for both keys
        value["weight_map"] = {k: _renamed(v) for k, v in value["weight_map"].items()}
        target = out / index.name.replace("pytorch_model.bin", "model.safetensors")
        target.write_text(json.dumps(value, indent=1) + "\n")
    return written


def _renamed(name: str) -> str:
    stem = name.removesuffix(".bin")
    return (stem if stem.startswith("diffusion_") else stem.replace("pytorch_model", "model", 1)) + ".safetensors"


def _zipped(path: Path) -> bool:
    """Whether it is torch's zip format, which alone can be memory-mapped; files from before 2020 are not."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
