"""The encoders of a training run: cached features where they are, else the models, each loaded when it is first needed.

encoders = Encoders(settings, world); opened = encoders.open(quiet=False)     # as stages/train.py does
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from commonart.core.data.features import Features
from commonart.core.errors import CommonArtError
from commonart.core.recipes import Recipe
from commonart.core.registry import check_terms, find
from commonart.core.settings import Settings

GRID = 8  # prompts of a sample grid, where none are given

if TYPE_CHECKING:
    from commonart.core.model.autoencoder import Autoencoder
    from commonart.core.model.text_encoder import TextEncoder
    from commonart.core.model.trainset import Opened
    from commonart.core.model.world import World


class Encoders:
    """The encoders of a run: cached features where they are, else models; each model is loaded when it is first needed."""

    def __init__(self, wanted: Settings, world: World) -> None:
        self.wanted, self.world = wanted, world
        self.text, self.image = beside(wanted)
        self._loaded: dict[str, Any] = {}

    def open(self, quiet: bool) -> Opened:
        """The data set, checked against the recipe's resolution."""
        from commonart.core.model.trainset import open_shards, read_index

        wanted, recipe = self.wanted, self.wanted.recipe
        index = read_index(wanted.data)  # data that cannot be trained on are refused before a model is fetched
        opened = open_shards(
            wanted.data, self.text or self.encoder(), self.image or self.autoencoder(),
            languages=wanted.languages or None, quiet=quiet, index=index,
        )  # fmt: skip
        factor = int(self.image.meta.settings["factor"]) if self.image else self.autoencoder().factor
        pixels = opened.shape[1] * factor
        if opened.shape[1] != opened.shape[2] or pixels != recipe.resolution:
            raise CommonArtError(
                f"{wanted.data} holds images of {opened.shape[2] * factor}x{pixels} pixels; stage {recipe.name} trains on "
                f"{recipe.resolution}x{recipe.resolution}.",
                f"Make shards with commonart shard --size {recipe.resolution}, or train with --set resolution={pixels}.",
            )
        return opened

    def encoder(self) -> TextEncoder:
        """The text encoder, in the precision of the features where there are any."""
        from commonart.core.model.text_encoder import TextEncoder

        def load() -> Any:
            name = (
                self.text.meta.model if self.text else self.wanted.text_encoder or default(self.wanted, "text-encoder")
            )
            row, found = self._resolve(name, "text-encoder")
            quantize, dtype, tokens = self.wanted.quantize, "auto", self.wanted.max_tokens
            if self.text:
                head, _, dtype = self.text.meta.precision.rpartition("/")
                quantize, tokens = head, int(self.text.meta.settings.get("max_tokens", tokens))
            loaded = TextEncoder.load(
                found.folder, dtype, quantize or None, device=self.world.device, max_tokens=tokens
            )
            return loaded, row, found

        return self._once("text", load)[0]

    def autoencoder(self) -> Autoencoder:
        """The autoencoder."""
        from commonart.core.model.autoencoder import Autoencoder

        def load() -> Any:
            name = (
                self.image.meta.model if self.image else self.wanted.autoencoder or default(self.wanted, "autoencoder")
            )
            row, found = self._resolve(name, "autoencoder")
            return Autoencoder.load(found.folder, device=self.world.device), row, found

        return self._once("image", load)[0]

    def describe(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """(text_encoder, autoencoder) for run.json."""
        if self.text:
            text = named(self.text)
        else:
            encoder, row, found = self._loaded["text"]
            text = {
                "name": row.name, "revision": found.revision, "precision": encoder.precision, "width": encoder.width,
                "max_tokens": encoder.max_tokens, "cached": False,
            }  # fmt: skip
        if self.image:
            return text, named(self.image)
        vae, row, found = self._loaded["image"]
        return text, {
            "name": row.name, "revision": found.revision, "precision": vae.precision, "channels": vae.channels,
            "factor": vae.factor, "scaling": vae.scaling, "shift": vae.shift, "cached": False,
        }  # fmt: skip

    def preview(self, opened: Opened, recipe: Recipe, dtype: Any) -> Any:
        """The function that draws the sample grid."""
        from commonart.core.model.preview import Preview

        prompts = list(self.wanted.prompts) or opened.index.prompts(GRID)
        return Preview(
            prompts, self.wanted.run / "samples", self.encoder(), self.autoencoder(), recipe,
            shape=opened.shape, dtype=dtype, guidance=self.wanted.guidance,
        )  # fmt: skip

    def _resolve(self, name: str, role: str) -> tuple[Any, Any]:
        from commonart.core.model import hub

        row = find(name, role)
        check_terms(row, self.wanted.accept_terms)
        return row, hub.resolve(row)

    def _once(self, name: str, load: Any) -> Any:
        if name not in self._loaded:
            self._loaded[name] = load()
        return self._loaded[name]


def beside(wanted: Settings) -> tuple[Features | None, Features | None]:
    """The cached features beside the shards. Raises CommonArtError where they are of another encoder than was asked for."""
    text, image = Features.beside(wanted.data, "text"), Features.beside(wanted.data, "image")
    for features, name, option in (
        (text, wanted.text_encoder, "--text-encoder"),
        (image, wanted.autoencoder, "--autoencoder"),
    ):
        if features is not None and name and name != features.meta.model:
            raise CommonArtError(
                f"{features.folder} holds features of {features.meta.model}, but {option} is {name}.",
                f"Leave {option} out, or encode again: commonart encode-{features.meta.kind} {wanted.data} "
                f"--model {name} --overwrite.",
            )
    return text, image


def default(wanted: Settings, role: str) -> str:
    if wanted.stage == "nano":
        return "nano"
    return {"text-encoder": "calm2-7b", "autoencoder": "sdxl-vae"}[role]


def named(features: Features | None) -> dict[str, Any]:
    if features is None:
        return {}
    meta = features.meta
    size = {"width": meta.width} if meta.kind == "text" else {"channels": meta.width}
    about = {"name": meta.model, "revision": meta.revision, "precision": meta.precision, "store": meta.store}
    return {**about, **size, **meta.settings, "cached": True}
