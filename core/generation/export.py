"""A model as a diffusers folder, which `PixArtSigmaPipeline.from_pretrained` loads without remote code.

The weights are those that `commonart sample` uses: the moving average where there is one. A transformer whose text encoder
or autoencoder nobody names is exported alone.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from commonart.core.data.files import check_writable, naming, write_bytes, write_json
from commonart.core.errors import CommonArtError, UsageError, reason
from commonart.core.generation.components import PipelineComponents, locate
from commonart.core.generation.request import ModelSpec
from commonart.core.model import pixart_checkpoint, sampler
from commonart.core.model.diffusion import objective_of
from commonart.core.model.transformer import PixArt
from commonart.core.registry import hub
from commonart.core.registry.lookup import check_terms, component_dir, find_model, read_json
from commonart.core.training import checkpoint

USAGE = """\
# A text-to-image transformer, exported by commonart

Trained as {m.name}, {m.revision}, objective {m.objective}. `commonart sample --model THIS_FOLDER` runs it; so does diffusers:

```python
from diffusers import PixArtSigmaPipeline

pipeline = PixArtSigmaPipeline.from_pretrained("THIS_FOLDER")
pipeline("a prompt", negative_prompt={null!r}, num_inference_steps=20, guidance_scale=4.5, max_sequence_length={m.max_tokens},
         clean_caption=False, use_resolution_binning=False)
```

`{null}` is the one token of "no text" that it was trained with. diffusers writes prompts in lower case; commonart does not.
"""


def export(
    source: str,
    out: Path,
    *,
    text_encoder: str = "",
    autoencoder: str = "",
    dtype: torch.dtype | None = None,
    heads: int = 16,
    accept_terms: Sequence[str] = (),
) -> list[str]:
    """Write the model `source` to the folder `out`; return the names of the components that are in it.

    Args:
        source: a run, one of its checkpoints, a name of the registry, a hub id, a folder, or a .safetensors file with
            the names of PixArt's own repository.
        out: must be new or empty.
        text_encoder, autoencoder: others than the model's own, by name, folder or hub id.
        dtype: of the transformer; None keeps what is stored.
        heads: attention heads of a transformer in a .safetensors file, which does not say it.

    Raises:
        UsageError: `out` is not empty.
        CommonArtError: no such model, weights of another architecture, a full disk.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"-o {out} already exists and is not empty.", "Name a new folder.")
    check_writable(out)
    names = {"text-encoder": text_encoder, "autoencoder": autoencoder}
    components, folders = None, dict[str, Path]()
    if source.endswith(".safetensors"):
        model = _of_file(Path(source), heads)
        folders = {role: _resolve(name, role, accept_terms) for role, name in names.items() if name}
    elif components := _locate(source, names, accept_terms):
        model = PixArt.load(components.transformer)
        folders = {"text-encoder": components.text_encoder, "autoencoder": components.autoencoder}
    else:
        model = PixArt.load(component_dir(Path(source), "transformer"))
    if model.config.own:
        has = ", ".join(f"{name} = {value}" for name, value in model.config.own.items())
        raise CommonArtError(
            f"{source} has {has}, which diffusers' PixArtTransformer2DModel cannot compute.",
            "Sample it with commonart, or train without that switch of the recipe.",
        )
    _check_pipeline(source, components, folders.get("autoencoder"))
    objective = objective_of(model.config.in_channels, model.config.out_channels)
    about = components or PipelineComponents(source, "as given", out, out, out, objective, ())
    scheduler = sampler.scheduler_config(about.objective, about.shift)
    index: dict[str, Any] = {
        "_class_name": "PixArtSigmaPipeline",
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "transformer": ["diffusers", "PixArtTransformer2DModel"],
    }
    home = out.with_name(f".{out.name}.part")
    shutil.rmtree(home, ignore_errors=True)
    try:
        with naming(out, home):
            model.save(home / "transformer", dtype)
            write_json(home / "scheduler" / "scheduler_config.json", scheduler)
            null = ""
            if "text-encoder" in folders:
                classes, null = _copy_text(folders["text-encoder"], home, about.max_tokens)
                index |= classes
            if "autoencoder" in folders:
                index["vae"] = ["diffusers", "AutoencoderKL"]
                _copy_autoencoder(folders["autoencoder"], home / "vae")
            if len(folders) == 2:  # without them it is a transformer, not a pipeline
                write_json(home / "model_index.json", index)
                usage = USAGE.format(m=about, null=null)
                write_bytes(home / "README.md", usage.encode())
            if out.exists():
                out.rmdir()
            os.rename(home, out)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return [name for name in ("transformer", "text_encoder", "vae") if (out / name).is_dir()]


def _locate(source: str, names: dict[str, str], accept_terms: Sequence[str]) -> PipelineComponents | None:
    """Find the components; None for a bare transformer that is to stay alone."""
    folder = Path(source)
    spec = ModelSpec(source, names["text-encoder"] or None, names["autoencoder"] or None, accept_terms, flag="MODEL")
    if folder.parent.name == "checkpoints" and (folder / checkpoint.STATE).is_file():
        chosen = checkpoint.read(folder)
        components = locate(dataclasses.replace(spec, model=str(folder.parent.parent)))
        return dataclasses.replace(components, transformer=chosen.weights, revision=f"step-{chosen.step}")
    has_transformer = (component_dir(folder, "transformer") / "config.json").is_file()
    bare = has_transformer and not (folder / "model_index.json").is_file()
    return None if bare and not all(names.values()) else locate(spec)


def _check_pipeline(source: str, components: PipelineComponents | None, autoencoder: Path | None) -> None:
    """Raise CommonArtError for what diffusers' pipeline for PixArt cannot do, before gigabytes are copied."""
    from commonart.core.model.autoencoder import CLASSES, class_of
    from commonart.core.model.text_encoder import LAST

    fix = "Sample it with commonart."
    if components is not None and components.layer != LAST:
        what = f"{source} reads hidden state {components.layer} of its text encoder"
        raise CommonArtError(f"{what}; diffusers' PixArtSigmaPipeline reads the last.", fix)
    if autoencoder is None:
        return
    folder = component_dir(autoencoder, "autoencoder")
    name = class_of(read_json(folder / "config.json"))
    reasons = {
        CLASSES[1]: "does not undo the batch norm of its latents",
        CLASSES[2]: "asks for block_out_channels, which it does not have",
    }
    if name in reasons:
        raise CommonArtError(f"{folder} is an {name}: diffusers' PixArtSigmaPipeline {reasons[name]}.", fix)


def _of_file(file: Path, heads: int) -> PixArt:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CommonArtError(f"{file} cannot be read: {reason(error)}.", "Name a .safetensors file.") from error
    if not pixart_checkpoint.is_original(set(state)):
        raise CommonArtError(
            f"{file} does not hold a transformer under the names of PixArt's repository.",
            "Name the folder with config.json of a diffusers transformer.",
        )
    return pixart_checkpoint.convert(state, file, heads)


def _resolve(name: str, role: str, accept_terms: Sequence[str]) -> Path:
    row = find_model(name, role, f"--{role}")
    check_terms(row, accept_terms, f"--{role}")
    return hub.resolve_model(row).folder


def _copy_text(folder: Path, home: Path, tokens: int) -> tuple[dict[str, list[str]], str]:
    """Copy text encoder and tokenizer; return their entries in model_index.json, and the text of the null token.

    The class is the model without its output head: its first output is the last hidden state, which diffusers takes.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

    from commonart.core.model.text_encoder import LENGTH, T5_FAMILY, _null_id, model_folders
    from commonart.core.model.tokenizer import load_tokenizer

    folder, beside = model_folders(folder)
    _copy(folder, home / "text_encoder", skip="tokenizer")
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    auto: Any = AutoModelForTextEncoding if config.model_type in T5_FAMILY else AutoModel
    tokenizer = load_tokenizer(beside)
    tokenizer.padding_side = "right"
    null = _null_id(tokenizer, config, folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(null)
    tokenizer.save_pretrained(home / "tokenizer")
    about = home / "tokenizer" / "tokenizer_config.json"
    write_json(about, {**read_json(about), LENGTH: tokens})
    classes = {"text_encoder": auto._model_mapping[type(config)], "tokenizer": type(tokenizer)}
    index = {name: ["transformers", cls.__name__] for name, cls in classes.items()}
    return index, str(tokenizer.convert_ids_to_tokens(null))


def _copy_autoencoder(folder: Path, to: Path) -> None:
    """Copy the autoencoder, its shift of the latents folded in: diffusers' pipeline for PixArt knows a scale alone."""
    from commonart.core.model.autoencoder import Autoencoder

    vae = Autoencoder.load(folder, device="cpu")
    if not vae.shift:
        _copy(component_dir(folder, "autoencoder"), to)
        return
    model, channels = vae.model, vae.channels
    if model.quant_conv is None or model.post_quant_conv is None:
        raise CommonArtError(
            f"{folder}: this autoencoder shifts its latents by {vae.shift}, and has no layer to fold that into.",
            "diffusers' pipeline for PixArt cannot decode it: sample with commonart.",
        )
    with torch.no_grad():
        # Both layers are 1 x 1: new latents are the old ones less the shift, and decode to the same pixels.
        model.quant_conv.bias[:channels] -= vae.shift
        model.post_quant_conv.bias += model.post_quant_conv.weight.sum(dim=(1, 2, 3)) * vae.shift
    model.register_to_config(shift_factor=None)
    model.save_pretrained(to)


def _copy(folder: Path, to: Path, skip: str = "\0") -> None:
    """Copy the weights and JSON files of `folder`; links of the hub's cache become files."""
    to.mkdir(parents=True)
    for path in sorted(folder.iterdir()):
        known = path.is_file() and path.suffix in (".safetensors", ".json", ".model", ".txt")
        if known and not path.name.startswith(skip):
            shutil.copyfile(path, to / path.name)
