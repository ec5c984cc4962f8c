"""The encoders of a training run: cached features where they are, else the models, each loaded when it is first needed.

encoders = Encoders(settings, world); opened = encoders.open(quiet=False)     # as stages/train.py does
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from commonart.core.data.features.format import Features
from commonart.core.data.training_index import data_sets
from commonart.core.errors import CommonArtError
from commonart.core.recipes import Recipe
from commonart.core.registry.lookup import check_terms, find_model
from commonart.core.settings import Settings

if TYPE_CHECKING:
    from commonart.core.model.autoencoder import Autoencoder
    from commonart.core.model.text_encoder import TextEncoder
    from commonart.core.training.dataset import TrainingData
    from commonart.core.training.distributed import World


class Encoders:
    """The encoders of a run: cached features where they are, else models; each model is loaded when it is first needed."""

    def __init__(self, wanted: Settings, world: World) -> None:
        self.wanted, self.world = wanted, world
        self.texts, self.images = cached(wanted)  # of each data set
        self.text, self.image = next(iter(self.texts), None), next(iter(self.images), None)
        self._loaded: dict[str, Any] = {}

    def open(self, quiet: bool) -> TrainingData:
        """The data set, checked against the recipe's resolution."""
        from commonart.core.data.training_index import read_index
        from commonart.core.training.dataset import open_shards

        wanted, recipe = self.wanted, self.wanted.recipe
        index = read_index(wanted.data)  # data that cannot be trained on are refused before a model is fetched
        if wanted.languages:
            index.keep(index.told_in(wanted.languages), "no_caption_in_language")
        opened = open_shards(
            wanted.data, self.texts or self.encoder(), self.images or self.autoencoder(),
            languages=wanted.languages or None, quiet=quiet, index=index,
        )  # fmt: skip
        factor = int(self.image.meta.settings["factor"]) if self.image else self.autoencoder().factor
        for _, *sides in opened.shapes:
            check_size(recipe, wanted.data, sides[1] * factor, sides[0] * factor)
        return opened

    def encoder(self) -> TextEncoder:
        """The text encoder, in the precision of the features where there are any."""
        from commonart.core.model.quantize import settle
        from commonart.core.model.text_encoder import TextEncoder

        def load() -> Any:
            name = (
                self.text.meta.model if self.text else self.wanted.text_encoder or default(self.wanted, "text-encoder")
            )
            row, found = self._resolve(name, "text-encoder")
            quantize, dtype, tokens = self.wanted.quantize or None, "auto", self.wanted.max_tokens
            if self.text:
                meta = self.text.meta
                if found.revision != meta.revision:
                    raise CommonArtError(
                        f"{self.text.folder} was made by {name} at {meta.revision}, and {found.folder} holds "
                        f"{found.revision}.",
                        "Put that one back, or encode again: commonart encode-text --overwrite.",
                    )
                quantize, dtype = settle(meta.precision, quantize, str(self.text.folder))
                tokens = int(meta.settings.get("max_tokens", tokens))
            loaded = TextEncoder.load(found.folder, dtype, quantize, device=self.world.device, max_tokens=tokens)
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

    def preview(self, prompts: Sequence[str], opened: TrainingData, recipe: Recipe, dtype: Any, **more: Any) -> Any:
        """The function that draws the sample grid; `more` as `Preview` takes it."""
        from commonart.core.training.preview import Preview

        preview = Preview(
            prompts, self.wanted.run / "samples", self.encoder(), self.autoencoder(), recipe,
            shape=opened.shape, dtype=dtype, guidance=self.wanted.guidance, **more,
        )  # fmt: skip
        if self.text:  # the prompts are read, and training has its features: 7 to 14 GB of CALM2 for nothing
            del self._loaded["text"]
        return preview

    def _resolve(self, name: str, role: str) -> tuple[Any, Any]:
        from commonart.core.registry import hub

        row = find_model(name, role)
        check_terms(row, self.wanted.accept_terms)
        return row, hub.resolve_model(row)

    def _once(self, name: str, load: Any) -> Any:
        if name not in self._loaded:
            self._loaded[name] = load()
        return self._loaded[name]


def cached(wanted: Settings) -> tuple[list[Features], list[Features]]:
    """The features beside the shards of each data set, (text, image); an empty list where they are encoded on the fly.

    Raises CommonArtError where they are of another encoder or precision than was asked for, or of several.
    """
    found: list[list[Features]] = []
    for kind, name, option in (
        ("text", wanted.text_encoder, "--text-encoder"),
        ("image", wanted.autoencoder, "--autoencoder"),
    ):
        folders = [folder for folder, _ in data_sets(wanted.data)]
        parts = [Features.beside(folder, kind) for folder in folders]
        there = [part for part in parts if part is not None]
        found.append(there)
        if not there:
            continue
        if len(there) < len(parts):
            raise CommonArtError(
                f"{there[0].folder} holds features, and {folders[parts.index(None)]} has none.",
                f"Encode that one, too: commonart encode-{kind} {folders[parts.index(None)]}.",
            )
        first = there[0].meta
        for part in there:
            own = asdict(part.meta)
            if differ := [k for k, v in asdict(first).items() if k not in ("model", "store") and own[k] != v]:
                raise CommonArtError(
                    f"{part.folder} was made with another {' and '.join(differ)} than {there[0].folder}.",
                    f"Encode one of them again: commonart encode-{kind} --overwrite.",
                )
            if name and name != part.meta.model:
                raise CommonArtError(
                    f"{part.folder} holds features of {part.meta.model}, but {option} is {name}.",
                    f"Leave {option} out, or encode again: commonart encode-{kind} {part.folder.parent} "
                    f"--model {name} --overwrite.",
                )
        made, asked = first.precision.rpartition("/")[0], wanted.quantize
        if kind == "text" and asked and asked != made:
            raise CommonArtError(
                f"{there[0].folder} holds features made in {first.precision}, but --quantize is {asked}.",
                f"Leave --quantize out, or encode again: commonart encode-text --quantize {asked} --overwrite.",
            )
    return found[0], found[1]


def beside(wanted: Settings) -> tuple[Features | None, Features | None]:
    """The first of each kind of `cached` features, whose descriptions are those of all."""
    texts, images = cached(wanted)
    return next(iter(texts), None), next(iter(images), None)


def check_size(recipe: Recipe, data: str, width: int, height: int) -> None:
    """Raises CommonArtError where images of this size are not what the recipe trains on."""
    square = height == width == recipe.resolution
    # A bucket has another shape and about the same area: the recipe's positions and its shift are of that area.
    if not square and (height == width or not 0.7 < height * width / recipe.resolution**2 < 1.4):
        raise CommonArtError(
            f"{data} holds images of {width}x{height} pixels; stage {recipe.name} trains on "
            f"{recipe.resolution}x{recipe.resolution}.",
            f"Make shards with commonart shard --size {recipe.resolution}, or train with --set resolution={height}.",
        )


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
