"""Which files of a repository on the hub are downloaded: each weight once, in safetensors, and the small text files."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from itertools import product

from commonart.core.registry.catalogue import SUBFOLDERS

# Sentencepiece models are protocol buffers, not pickles; jinja holds chat templates.
_SMALL = ("*.json", "*.txt", "*.model", "*.spm", "*.jinja")
# Where a repository holds the same weights several times, the first of these that is there is taken.
_WEIGHTS = ("open_clip_model", "model", "diffusion_pytorch_model")
_VARIANTS = ("", ".fp16", ".bf16")  # and the first of these; others than the first are loaded as a `variant`
_INDEX = ".safetensors.index.json"
_PICKLES = ("pytorch_model*.bin", "diffusion_pytorch_model*.bin")
PIPELINE = "pipeline"  # a role of its own: all components of a diffusers pipeline of another class than ours


def select_files(files: Iterable[str], role: str) -> list[str]:
    """Select the files of a repository that a role needs.

    Of a diffusers pipeline only the role's own sub-folder, with its tokenizer and scheduler; for the role "pipeline"
    all of it, but for what judges pictures afterwards.
    """
    files = sorted(files)
    if role == PIPELINE:
        small = [f for f in files if "/" not in f and f.endswith(".json")]
        return small + [name for folder in _folders(files) for name in _of_folder(files, folder)]
    subfolder = SUBFOLDERS[role] + "/"
    # PixArt-Sigma at 512 px is published as a pipeline's transformer/ alone, without an index.
    whole = "model_index.json" in files or "config.json" not in files
    if not (whole and any(f.startswith(subfolder) for f in files)):
        return _of_folder(files, "")
    beside = ("tokenizer/", "scheduler/")
    extra = [f for f in files if f == "model_index.json" or (f.startswith(beside) and is_small(f))]
    return _of_folder(files, subfolder) + extra


def _folders(files: Iterable[str]) -> list[str]:
    folders = {f.split("/")[0] + "/" for f in files if f.count("/") == 1}
    return sorted(folders - {"safety_checker/", "feature_extractor/", "image_encoder/"})


def _of_folder(files: Iterable[str], folder: str) -> list[str]:
    names = [f[len(folder) :] for f in files if f.startswith(folder) and "/" not in f[len(folder) :]]
    small = [f for f in names if is_small(f)]
    return [folder + f for f in small + _weights({f for f in names if f.endswith((".safetensors", ".json"))})]


def _weights(names: set[str]) -> list[str]:
    """The safetensors of a folder that hold its weights once: in plain files, or else in those of a variant."""
    indexed = sorted(name.removesuffix(_INDEX) for name in names if name.endswith(_INDEX))
    for variant, stem in product(_VARIANTS, (*_WEIGHTS, *indexed)):
        if f"{stem}.safetensors.index{variant}.json" in names:
            # Qwen3.5's are called model.safetensors-00001-of-00001.safetensors.
            shards = re.compile(re.escape(stem + variant) + r"(\.safetensors)?-\d+-of-\d+\.safetensors|" + re.escape(stem)
                                + r"-\d+-of-\d+" + re.escape(variant) + r"\.safetensors")  # fmt: skip
            return sorted(filter(shards.fullmatch, names))
        if f"{stem}{variant}.safetensors" in names:
            return [f"{stem}{variant}.safetensors"]
    return sorted(f for f in names if f.endswith(".safetensors"))[:1]


def is_small(name: str) -> bool:
    """Return whether a file is a configuration, a tokenizer or a template."""
    return any(fnmatch.fnmatch(name, glob) for glob in _SMALL)


def select_pickles(files: Iterable[str], role: str) -> list[str]:
    """Select the pickled weights of a repository that stand for what it lacks in safetensors."""
    files = sorted(files)
    if role != PIPELINE:
        names = [f for f in files if any(fnmatch.fnmatch(f, glob) for glob in _PICKLES)]
        return sorted(names + [f for f in files if f.endswith(".bin.index.json") and "/" not in f])
    bare = [d for d in _folders(files) if not any(f.startswith(d) and f.endswith(".safetensors") for f in files)]
    return [f for f in files for d in bare if f in (d + "pytorch_model.bin", d + "diffusion_pytorch_model.bin")]
