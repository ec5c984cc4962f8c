"""The transformer's sizes: config.json as diffusers writes it.

What is fixed by the architecture is checked, not kept: a config.json that asks for another one is refused.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from commonart.core.data.files import write_bytes
from commonart.core.errors import CommonArtError

CONFIG = "config.json"
TIME_CHANNELS = 256  # width of the sinusoidal time embedding in DiT and PixArt
NORM_EPS = 1e-6

# Keys of diffusers' config.json that have one supported value here: what PixArt-Sigma and CommonArt use.
_FIXED: dict[str, Any] = {
    "_class_name": "PixArtTransformer2DModel",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_type": "default",
    "dropout": 0.0,
    "norm_elementwise_affine": False,
    "norm_eps": NORM_EPS,
    "norm_num_groups": 32,
    "norm_type": "ada_norm_single",
    "num_embeds_ada_norm": 1000,
    "upcast_attention": False,
    "use_additional_conditions": False,
}
# The old class wrote more keys. They change nothing when they hold these values.
_OLD_CLASS: dict[str, Any] = {
    "double_self_attention": False,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "use_linear_projection": False,
}
_IRRELEVANT = {"norm_num_groups", "num_embeds_ada_norm"}  # read by no layer of this architecture
# Keys of our own with the values that diffusers' class stands for: they are written where they differ.
OWN: dict[str, Any] = {"prediction": "velocity", "qk_norm": False}
PREDICTIONS = ("velocity", "x")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixArtConfig:
    """The keys of config.json that give a size; the other keys are fixed by the architecture.

    `sample_size` is the latent side (32 at 256 px, 64 at 512 px). `interpolation_scale` left None becomes
    sample_size / 64, PixArt-Sigma's own values (0.5 at 256 px, 1 at 512 px); diffusers would take 1 at 256 px.
    `out_channels` is 2 * in_channels with learned variance (eps), in_channels without (flow).
    """

    num_attention_heads: int = 16
    attention_head_dim: int = 72
    num_layers: int = 28
    in_channels: int = 4
    out_channels: int = 8
    patch_size: int = 2
    sample_size: int = 32
    caption_channels: int = 4096
    interpolation_scale: float | None = None
    prediction: str = "velocity"  # "x": core.model.x_prediction; like qk_norm, no key of diffusers'
    qk_norm: bool = False  # queries and keys are divided by their root mean square, as in Stable Diffusion 3

    def __post_init__(self) -> None:
        if self.interpolation_scale is None:
            object.__setattr__(self, "interpolation_scale", self.sample_size / 64)
        if self.prediction not in PREDICTIONS or not isinstance(self.qk_norm, bool):
            what = f"prediction {self.prediction!r} and qk_norm {self.qk_norm!r}"
            raise CommonArtError(f"A transformer of {what} is unknown here.", f"There are {' and '.join(PREDICTIONS)}.")
        for name, value in asdict(self).items():
            if name in OWN:
                continue
            kind, types = ("number", int | float) if name == "interpolation_scale" else ("whole number", int)
            if isinstance(value, bool) or not isinstance(value, types) or value <= 0:
                raise CommonArtError(f"The transformer's {name} is {value!r}.", f"Give a positive {kind} for {name}.")
        if self.hidden % 4 or self.sample_size % self.patch_size:
            raise CommonArtError(
                f"A transformer of width {self.hidden} with latents of {self.sample_size} in patches of "
                f"{self.patch_size} cannot be built.",
                "Take a width divisible by 4 and a sample_size divisible by patch_size.",
            )

    @property
    def hidden(self) -> int:
        """Width D of the tokens."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def own(self) -> dict[str, Any]:
        """What diffusers' class cannot compute, by key; {} of a transformer that it loads."""
        return {name: getattr(self, name) for name, default in OWN.items() if getattr(self, name) != default}

    def to_dict(self) -> dict[str, Any]:
        """Return all keys of diffusers' config.json, and `own`."""
        sizes = {name: value for name, value in asdict(self).items() if name not in OWN}
        return {**_FIXED, **sizes, **self.own, "cross_attention_dim": self.hidden}

    @classmethod
    def from_dict(cls, values: dict[str, Any], file: str | Path = CONFIG) -> PixArtConfig:
        """Read diffusers' keys, of `PixArtTransformer2DModel` or of the older `Transformer2DModel`.

        Raises CommonArtError, which names `file` and the key, for a value that would need another architecture.
        """
        kind = values.get("_class_name", _FIXED["_class_name"])
        if kind not in (_FIXED["_class_name"], "Transformer2DModel"):
            raise CommonArtError(
                f"{file} describes a {kind}, which is not a PixArt transformer.",
                "Name the folder of a PixArt-Sigma or CommonArt transformer.",
            )
        fixed = {**_FIXED, **_OLD_CLASS}
        names = {field.name for field in fields(cls)}
        for key, value in values.items():
            if key.startswith("_") or key in names or key in _IRRELEVANT or key == "cross_attention_dim":
                continue
            if key not in fixed:
                log.warning("%s: the key %s is unknown here and was ignored", file, key)
            elif value is not None and value != fixed[key]:
                raise CommonArtError(
                    f"{file} has {key} = {value!r}; this transformer supports {fixed[key]!r} only.",
                    "Use a PixArt-Sigma checkpoint, or train one with `commonart train`.",
                )
        known = {key: value for key, value in values.items() if key in names}
        known["out_channels"] = known.get("out_channels") or known.get("in_channels", 4)
        if known.get("caption_channels") is None:
            raise CommonArtError(f"{file} has no caption_channels.", "Add the width of the text states to it.")
        if known.setdefault("sample_size", 128) and known.get("interpolation_scale") is None:
            log.warning(
                "%s has no interpolation_scale; PixArt-Sigma's %g is taken for a sample_size of %d",
                file, known["sample_size"] / 64, known["sample_size"],
            )  # fmt: skip
        config = cls(**known)
        if values.get("cross_attention_dim") not in (None, config.hidden):
            raise CommonArtError(
                f"{file} has cross_attention_dim = {values['cross_attention_dim']}, not the width {config.hidden}.",
                "Set it to num_attention_heads * attention_head_dim.",
            )
        return config

    @classmethod
    def read(cls, file: str | Path) -> PixArtConfig:
        """Read a config.json of diffusers. Raises CommonArtError, which names file and key, where it is missing or not one."""
        try:
            values = json.loads(Path(file).read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            raise CommonArtError(f"{file} does not exist.", "Name the folder of a transformer.") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CommonArtError(f"{file} is not JSON: {error}.", "Download or export the model again.") from None
        if not isinstance(values, dict):
            raise CommonArtError(f"{file} does not hold a JSON object.", "Download or export the model again.")
        return cls.from_dict(values, file)

    def write(self, file: str | Path) -> None:
        """Write a config.json that diffusers reads."""
        write_bytes(file, f"{json.dumps(self.to_dict(), indent=2, sort_keys=True)}\n".encode())
