"""The encoders of a training run: cached features where they are, else the models, each loaded when it is first needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from commonart.core.data.admission import Rules
from commonart.core.data.features.format import Features
from commonart.core.data.training_index import counts_text, data_sets, read_index
from commonart.core.errors import CommonArtError
from commonart.core.recipes import Recipe
from commonart.core.registry import hub
from commonart.core.registry.lookup import check_terms, find_model
from commonart.core.settings import Settings

if TYPE_CHECKING:
    from commonart.core.model.autoencoder import Autoencoder
    from commonart.core.model.text_encoder import TextEncoder
    from commonart.core.model.vision_encoder import VisionEncoder
    from commonart.core.training.dataset import TrainingData


class Encoders:
    """The text encoder and the autoencoder of one run, as features or as models."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.text_features, self.image_features = cached_features(settings)  # of each data set
        self._text: tuple[TextEncoder, hub.ResolvedModel] | None = None
        self._image: tuple[Autoencoder, hub.ResolvedModel] | None = None
        self._vision: hub.ResolvedModel | None = None

    def open_data(self, quiet: bool) -> TrainingData:
        """Open the data sets, checked against the recipe's resolution."""
        from commonart.core.training.dataset import open_shards

        settings = self.settings
        # Data that cannot be trained on are refused before a model is fetched.
        index = read_index(settings.data, rules_of(settings))
        index.keep_usable(settings.languages)
        if (refused := index.captions_left_out) and not settings.skip_unlicensed:
            raise CommonArtError(
                f"{settings.data} holds captions that may not be trained on: {counts_text(refused)}.",
                "Remove them with commonart license-filter, answer for a model with --accept-terms, or --skip-unlicensed.",
            )
        text, image = self.text_features or self.text_encoder(), self.image_features or self.autoencoder()
        data = open_shards(
            settings.data, text, image, languages=settings.languages or None, lengths=settings.lengths or None,
            quiet=quiet, index=index, vision=self._load_vision() if settings.recipe.repa else None,
        )  # fmt: skip
        factor = latent_factor(image) if isinstance(image, list) else image.factor
        for _, height, width in data.shapes:
            check_size(settings.recipe, settings.data, width * factor, height * factor)
        return data

    def text_encoder(self) -> TextEncoder:
        """Return the text encoder, in the precision of the features where there are any."""
        if self._text is None:
            self._text = self._load_text_encoder()
        return self._text[0]

    def autoencoder(self) -> Autoencoder:
        from commonart.core.model.autoencoder import Autoencoder

        if self._image is None:
            name = self.image_features[0].meta.model if self.image_features else self.settings.autoencoder_name
            resolved = self._resolve(name, "autoencoder")
            self._image = Autoencoder.load(resolved.folder, device=self.device), resolved
        return self._image[0]

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return what run.json keeps of the encoders, by part."""

        def live(resolved: hub.ResolvedModel, precision: str, **settings: Any) -> dict[str, Any]:
            about = {"name": resolved.name, "revision": resolved.revision, "precision": precision}
            return {**about, **settings, "cached": False}

        text, image = describe_features(self.text_features), describe_features(self.image_features)
        if self._text and not text:
            encoder, resolved = self._text
            text = live(resolved, encoder.precision, width=encoder.width, max_tokens=encoder.max_tokens)
        if self._image and not image:
            vae, resolved = self._image
            image = live(resolved, vae.precision, channels=vae.channels, **vae.settings)
        vision = {} if self._vision is None else {"name": self._vision.name, "revision": self._vision.revision}
        return {"text_encoder": text, "autoencoder": image, **({"vision_tower": vision} if vision else {})}

    def release_text_encoder(self) -> None:
        """Free the text encoder where training has its features: 7 to 14 GB of CALM2."""
        if self.text_features:
            self._text = None

    def _load_vision(self) -> tuple[VisionEncoder, int]:
        """REPA's encoder, and the transformer's patch."""
        from commonart.core.model.vision_encoder import VisionEncoder

        self._vision = self._resolve(self.settings.vision_tower, "vision-tower")
        return VisionEncoder.load(self._vision.folder, self.device), self.settings.recipe.patch

    def _load_text_encoder(self) -> tuple[TextEncoder, hub.ResolvedModel]:
        from commonart.core.model.quantize import resolve_precision
        from commonart.core.model.text_encoder import LAST, TextEncoder

        settings = self.settings
        quantize, dtype, max_tokens, layer = settings.quantize or None, "auto", settings.max_tokens, LAST
        if not self.text_features:
            resolved = self._resolve(settings.text_encoder_name, "text-encoder")
        else:
            features, meta = self.text_features[0], self.text_features[0].meta
            resolved = self._resolve(meta.model, "text-encoder")
            if resolved.revision != meta.revision:
                raise CommonArtError(
                    f"{features.folder} was made by {meta.model} at {meta.revision}, but {resolved.folder} holds "
                    f"{resolved.revision}.",
                    "Put that one back, or encode again: commonart encode-text --overwrite.",
                )
            quantize, dtype = resolve_precision(meta.precision, quantize, str(features.folder))
            max_tokens = int(meta.settings.get("max_tokens", max_tokens))
            layer = int(meta.settings.get("layer", LAST))
        encoder = TextEncoder.load(
            resolved.folder, dtype, quantize, device=self.device, max_tokens=max_tokens, layer=layer
        )
        return encoder, resolved

    def _resolve(self, name: str, role: str) -> hub.ResolvedModel:
        row = find_model(name, role, f"--{role}")
        check_terms(row, self.settings.accept_terms, f"--{role}")
        return hub.resolve_model(row)


def rules_of(settings: Settings) -> Rules:
    """Return what a run asks of its data. Raises as `Rules.load`."""
    return Rules.load(settings.policy, settings.blocklist, settings.accept_terms, settings.skip_unlicensed)


def cached_features(settings: Settings) -> tuple[list[Features], list[Features]]:
    """Return the features beside the shards of each data set, (text, image); an empty list: encoded on the fly.

    Raises CommonArtError where they are of another encoder or precision than was asked for, or of several.
    """
    texts = _features_of(settings, "text", settings.text_encoder, "--text-encoder")
    images = _features_of(settings, "image", settings.autoencoder, "--autoencoder")
    if texts and settings.quantize:
        made_in, quantize = texts[0].meta.precision, settings.quantize
        if quantize != made_in.rpartition("/")[0]:
            raise CommonArtError(
                f"{texts[0].folder} holds features made in {made_in}, but --quantize is {quantize}.",
                f"Leave --quantize out, or encode again: commonart encode-text --quantize {quantize} --overwrite.",
            )
    return texts, images


def _features_of(settings: Settings, kind: str, name: str, option: str) -> list[Features]:
    beside = {folder: Features.beside(folder, kind) for folder, _ in data_sets(settings.data)}
    features = [each for each in beside.values() if each is not None]
    if bare := [folder for folder, each in beside.items() if features and each is None]:
        what = f"{features[0].folder} holds features, but {bare[0]} has none."
        raise CommonArtError(what, f"Encode that one, too: commonart encode-{kind} {bare[0]}.")
    for each in features:
        first, other = asdict(features[0].meta), asdict(each.meta)
        if differ := [key for key in first if key not in ("model", "store") and other[key] != first[key]]:
            raise CommonArtError(
                f"{each.folder} was made with another {' and '.join(differ)} than {features[0].folder}.",
                f"Encode one of them again: commonart encode-{kind} --overwrite.",
            )
        if name and name != each.meta.model:
            raise CommonArtError(
                f"{each.folder} holds features of {each.meta.model}, but {option} is {name}.",
                f"Leave {option} out, or encode again: commonart encode-{kind} {each.folder.parent} "
                f"--model {name} --overwrite.",
            )
    return features


def check_size(recipe: Recipe, data: str, width: int, height: int) -> None:
    """Raise CommonArtError where images of this size are not what the recipe trains on."""
    square = height == width == recipe.resolution
    # A bucket has another shape and about the same area: the recipe's positions and its shift are of that area.
    if not square and (height == width or not 0.7 < height * width / recipe.resolution**2 < 1.4):
        raise CommonArtError(
            f"{data} holds images of {width}x{height} pixels; stage {recipe.name} trains on "
            f"{recipe.resolution}x{recipe.resolution}.",
            f"Make shards of that size: commonart shard raw/ -o shards/ --size {recipe.resolution}.",
        )


def latent_factor(features: Sequence[Features]) -> int:
    """Return the pixels of one latent on a side."""
    return int(features[0].meta.settings["factor"])


def describe_features(features: Sequence[Features]) -> dict[str, Any]:
    """Return what run.json and --dry-run say of features; {} where there are none."""
    if not features:
        return {}
    meta = features[0].meta
    size = {"width": meta.width} if meta.kind == "text" else {"channels": meta.width}
    about = {"name": meta.model, "revision": meta.revision, "precision": meta.precision, "store": meta.store}
    return {**about, **size, **meta.settings, "cached": True}
