"""core/model/captioning/phi3_vision.py against a second implementation, which is written out number by number."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from tiny_phi3_vision import phi3_vision

from commonart.core.data.drops import Problem
from commonart.core.errors import CommonArtError
from commonart.core.model.captioning.captioners import Captioner
from commonart.core.model.captioning.generate import Generated
from commonart.core.model.captioning.phi3_vision import Phi3VForCausalLM, Phi3VProcessor, image_tokens

PROMPT = "Describe this image in one sentence."


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phi3_vision(tmp_path_factory.mktemp("phi3") / "vision")


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * height)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


# -- tiles -------------------------------------------------------------------------------------------------------------

GRIDS = [  # (width, height, most tiles, rows, columns)
    (768, 768, 16, 4, 4), (768, 512, 16, 3, 4), (512, 768, 16, 4, 3), (768, 128, 16, 2, 8), (128, 768, 16, 8, 2),
    (768, 768, 4, 2, 2), (768, 512, 4, 2, 2), (768, 256, 4, 1, 3), (256, 768, 4, 3, 1), (1, 1, 16, 4, 4), (1, 1, 1, 1, 1),
    (20_000, 50, 16, 1, 16), (50, 20_000, 16, 16, 1), (5377, 1, 16, 1, 16), (768, 2, 4, 1, 4),
]  # fmt: skip


@pytest.mark.parametrize(("width", "height", "most", "rows", "columns"), GRIDS)
def test_grids(folder: Path, width: int, height: int, most: int, rows: int, columns: int) -> None:
    processor = Phi3VProcessor.from_pretrained(folder)
    processor.num_crops = most
    tiles, grid = processor.cut(Image.new("RGB", (width, height)))
    assert grid == (rows, columns) and rows * columns <= most
    assert tiles.shape == (1 + rows * columns, 3, 336, 336)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (4, 4), (3, 4), (16, 1), (1, 16), (2, 9)])
def test_tokens_of_an_image(folder: Path, rows: int, columns: int) -> None:
    """(h * w + 1) * 144 + 1 + (h + 1) * 12, as published; and as many places stand in the prompt, in one piece."""
    assert image_tokens(rows, columns) == (rows * columns + 1) * 144 + 1 + (rows + 1) * 12
    processor = Phi3VProcessor.from_pretrained(folder)
    processor.num_crops = rows * columns
    inputs = processor(PROMPT, [Image.new("RGB", (100 * columns, 100 * rows))])
    assert inputs["grids"].tolist() == [[rows, columns]]
    places = (inputs["input_ids"][0] == processor.tokenizer.convert_tokens_to_ids("<|image|>")).nonzero()[:, 0]
    assert len(places) == image_tokens(rows, columns) and int(places[-1] - places[0]) + 1 == len(places)


@pytest.mark.parametrize("size", [(768, 512), (512, 768), (768, 128), (1, 1), (50, 20_000)])
def test_tokens_are_known_before_the_image_is_cut(folder: Path, size: tuple[int, int]) -> None:
    captioner = Captioner.open(str(folder), precision="fp32")
    assert captioner.image_tokens(size) == image_tokens(*captioner.loaded.processor.cut(Image.new("RGB", size))[1])


def test_tokens_of_the_card() -> None:
    """A square image at 16 tiles: 2,509 tokens; at one tile 313."""
    assert (image_tokens(4, 4), image_tokens(1, 1), image_tokens(2, 2)) == (2509, 313, 757)


def test_what_lies_in_the_tiles(folder: Path) -> None:
    """Each tile is its part of the padded picture; the first view is all of it; padding is white and evenly shared."""
    processor = Phi3VProcessor.from_pretrained(folder)  # 4 tiles
    picture = Image.new("RGB", (672, 504), "red")
    picture.paste("blue", (336, 0, 672, 504))
    tiles, grid = processor.cut(picture)
    assert grid == (2, 2)
    shown = tiles.numpy().transpose(0, 2, 3, 1) * processor.std + processor.mean
    red, blue, white = np.array([1, 0, 0]), np.array([0, 0, 1]), np.array([1, 1, 1])
    top_left, top_right, bottom_left, bottom_right = shown[1:]
    np.testing.assert_allclose(top_left[100:, :330], np.broadcast_to(red, (236, 330, 3)), atol=1e-5)
    np.testing.assert_allclose(top_right[100:, 5:], np.broadcast_to(blue, (236, 331, 3)), atol=1e-5)
    np.testing.assert_allclose(bottom_left[:252, :330], np.broadcast_to(red, (252, 330, 3)), atol=1e-5)
    np.testing.assert_allclose(bottom_right[252:], np.broadcast_to(white, (84, 336, 3)), atol=1e-5)
    np.testing.assert_allclose(top_left[:84], np.broadcast_to(white, (84, 336, 3)), atol=1e-5)
    np.testing.assert_allclose(shown[0][168, [80, 250]], [red, blue], atol=1e-5)
    np.testing.assert_allclose(shown[0][[10, 320], 168], [white, white], atol=1e-5)


@pytest.mark.parametrize("size", [(300, 200), (200, 300)])
def test_an_upright_picture_is_the_lying_one_turned(folder: Path, size: tuple[int, int]) -> None:
    processor = Phi3VProcessor.from_pretrained(folder)
    picture = noise(*size)
    (tiles, (rows, columns)) = processor.cut(picture)
    (turned, grid) = processor.cut(picture.transpose(Image.Transpose.TRANSPOSE))
    assert grid == (columns, rows)
    for row in range(rows):
        for column in range(columns):
            torch.testing.assert_close(
                tiles[1 + row * columns + column], turned[1 + column * rows + row].transpose(1, 2)
            )


# -- the model, a second time ------------------------------------------------------------------------------------------


def norm(x: Any, w: dict[str, Any], name: str) -> Any:
    """Layer normalisation with a bias, of CLIP."""
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w[name + ".weight"] + w[name + ".bias"]


def linear(x: Any, w: dict[str, Any], name: str) -> Any:
    return x @ w[name + ".weight"].T + w[name + ".bias"]


def softmax(x: Any) -> Any:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def clip_features(tile: Any, w: dict[str, Any]) -> Any:
    """[3, 336, 336] -> [24, 24, C]: the output of the last but one of three layers, without the class token."""
    p = "model.vision_embed_tokens.img_processor.vision_model."
    kernel = w[p + "embeddings.patch_embedding.weight"]
    patches = [
        (kernel * tile[:, 14 * row : 14 * row + 14, 14 * column : 14 * column + 14]).sum((1, 2, 3))
        for row in range(24)
        for column in range(24)
    ]
    x = np.stack([w[p + "embeddings.class_embedding"], *patches]) + w[p + "embeddings.position_embedding.weight"]
    x = norm(x, w, p + "pre_layrnorm")
    for layer in range(2):
        q = f"{p}encoder.layers.{layer}."
        y = norm(x, w, q + "layer_norm1")
        query, key, value = (linear(y, w, f"{q}self_attn.{name}_proj") for name in "qkv")
        heads = []
        for head in range(2):
            part = slice(8 * head, 8 * head + 8)
            heads.append(softmax(query[:, part] @ key[:, part].T / math.sqrt(8)) @ value[:, part])
        x = x + linear(np.concatenate(heads, 1), w, q + "self_attn.out_proj")
        y = linear(norm(x, w, q + "layer_norm2"), w, q + "mlp.fc1")
        x = x + linear(y / (1 + np.exp(-1.702 * y)), w, q + "mlp.fc2")
    return x[1:].reshape(24, 24, -1)


def image_embeddings(tiles: Any, rows: int, columns: int, w: dict[str, Any]) -> Any:
    """The tokens of one image in the order in which they are read."""
    p = "model.vision_embed_tokens."
    views = [clip_features(tile, w) for tile in tiles]
    newline, between = w[p + "sub_GN"].reshape(-1), w[p + "glb_GN"].reshape(-1)

    def square(view: Any, row: int, column: int) -> Any:
        return np.concatenate([view[2 * row + i, 2 * column + j] for i in range(2) for j in range(2)])

    tokens = []
    for row in range(rows * 12):
        for column in range(columns * 12):
            view = views[1 + (row // 12) * columns + column // 12]
            tokens.append(square(view, row % 12, column % 12))
        tokens.append(newline)
    tokens.append(between)
    for row in range(12):
        tokens += [square(views[0], row, column) for column in range(12)]
        tokens.append(newline)
    x = linear(np.stack(tokens), w, p + "img_projection.0")
    x = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return linear(x, w, p + "img_projection.2")


def decoder(x: Any, w: dict[str, Any], config: dict[str, Any]) -> Any:
    """Phi-3 over embeddings [L, 32]: the logits behind the last one."""

    def rms(x: Any, name: str) -> Any:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w[name + ".weight"]

    length = len(x)
    factors = config["rope_scaling"]["short_factor" if length <= 4096 else "long_factor"]
    angles = np.array([[at / (factors[i] * 10_000 ** (2 * i / 16)) for i in range(8)] for at in range(length)])
    stretch = math.sqrt(1 + math.log(131072 / 4096) / math.log(4096))
    cos, sin = stretch * np.cos(angles), stretch * np.sin(angles)

    def turn(x: Any) -> Any:
        first, second = x[:, :8], x[:, 8:]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], 1)

    later = np.triu(np.full((length, length), -np.inf), 1)
    for layer in range(2):
        q = f"model.layers.{layer}."
        y = rms(x, q + "input_layernorm") @ w[q + "self_attn.qkv_proj.weight"].T
        heads = []
        for head in range(2):
            query, key, value = (y[:, 32 * part + 16 * head : 32 * part + 16 * head + 16] for part in range(3))
            heads.append(softmax(turn(query) @ turn(key).T / 4 + later) @ value)
        x = x + np.concatenate(heads, 1) @ w[q + "self_attn.o_proj.weight"].T
        y = rms(x, q + "post_attention_layernorm") @ w[q + "mlp.gate_up_proj.weight"].T
        gate, up = y[:, :48], y[:, 48:]
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[q + "mlp.down_proj.weight"].T
    return rms(x[-1:], "model.norm") @ w["lm_head.weight"].T


def test_it_is_what_the_second_implementation_says(folder: Path) -> None:
    """Image tokens in float64, logits (transformers' norms and rotations are float32), and the words of greedy decoding."""
    captioner = Captioner.open(str(folder), precision="fp32", max_new_tokens=5)
    model, processor = captioner.loaded.model.double(), captioner.loaded.processor
    captioner.loaded.dtype = torch.float64
    w = {name: value.astype(np.float64) for name, value in load_file(folder / "model.safetensors").items()}
    config = json.loads((folder / "config.json").read_text())
    pictures = [noise(60, 60), noise(90, 40), noise(20, 80)]
    answers = captioner.caption(pictures, PROMPT)
    texts = []
    for picture in pictures:
        tiles, grid = processor.cut(picture)
        image = image_embeddings(tiles.numpy().astype(np.float64), *grid, w)
        before = processor.tokenizer("<|user|>\n").input_ids
        after = processor.tokenizer(f"\n{PROMPT}<|end|>\n<|assistant|>\n").input_ids
        words = w["model.embed_tokens.weight"]
        said: list[int] = []
        for _ in range(5):
            logits = decoder(np.concatenate([words[before], image, words[after + said]]), w, config)
            if not said:
                inputs = processor(PROMPT, [picture])
                inputs["tiles"] = inputs["tiles"].double()
                with torch.inference_mode():
                    features = model.model.vision_embed_tokens(inputs["tiles"], inputs["grids"])
                    got = model(**inputs).logits[0, -1:]
                np.testing.assert_allclose(features.numpy(), image, rtol=0, atol=1e-11)
                np.testing.assert_allclose(got.numpy(), logits, rtol=0, atol=5e-5)
            said.append(int(logits.argmax()))
            if said[-1] in processor.end_ids:
                break
        texts.append(processor.tokenizer.decode(said, skip_special_tokens=True).strip())
    assert [answer.text for answer in answers if isinstance(answer, Generated)] == [" ".join(t.split()) for t in texts]
    assert len(set(texts)) == 3


# -- files -------------------------------------------------------------------------------------------------------------


def test_published_names_are_all_there_and_no_others(folder: Path, tmp_path: Path) -> None:
    """The layers behind the used one and a second copy of the embeddings are known; anything else is told."""
    _, told = Phi3VForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values())
    weights = load_file(folder / "model.safetensors")
    clip = "model.vision_embed_tokens.img_processor.vision_model."
    assert clip + "encoder.layers.2.mlp.fc1.weight" in weights, "the layer that is not used is in the file"
    weights[clip + "embeddings.position_ids"] = np.arange(577)[None]
    weights["model.vision_embed_tokens.wte.weight"] = weights["model.embed_tokens.weight"]
    weights["model.vision_embed_tokens.other"] = np.zeros(1)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    _, told = Phi3VForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert set(told["unexpected_keys"]) == {"model.vision_embed_tokens.other"} and not told["missing_keys"]
    del weights["model.vision_embed_tokens.glb_GN"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CommonArtError, match=r"the weights model\.vision_embed_tokens\.glb_GN are missing"):
        _ = Captioner.open(str(tmp_path)).loaded


def test_the_tower_of_the_published_files() -> None:
    """Without sizes of its own, config.json means CLIP ViT-L/14-336 up to its 23rd layer: 4,096 numbers a token."""
    folder = {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 1, "num_attention_heads": 32}
    from commonart.core.model.captioning.phi3_vision import Phi3VConfig

    config = Phi3VConfig(**folder, img_processor={"image_dim_out": 1024, "name": "clip_vision_model"})
    with torch.device("meta"):
        model = Phi3VForCausalLM(config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items() if "vision_embed_tokens" in name}
    p = "model.vision_embed_tokens."
    assert shapes[p + "img_projection.0.weight"] == (3072, 4096) and shapes[p + "img_projection.2.weight"] == (
        3072,
        3072,
    )
    assert shapes[p + "sub_GN"] == (1, 1, 1, 4096) and shapes[p + "glb_GN"] == (1, 1, 4096)
    p += "img_processor.vision_model."
    assert shapes[p + "embeddings.patch_embedding.weight"] == (1024, 3, 14, 14)
    assert shapes[p + "embeddings.position_embedding.weight"] == (577, 1024)
    assert p + "encoder.layers.22.mlp.fc1.weight" in shapes and p + "encoder.layers.23.mlp.fc1.weight" not in shapes
    assert sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(p)) == 303_507_456 - 12_596_224


def test_as_many_tiles_as_the_folder_says(tmp_path: Path) -> None:
    for crops in (4, 16):
        processor = Phi3VProcessor.from_pretrained(phi3_vision(tmp_path / str(crops), crops))
        assert processor.num_crops == crops and processor.cut(noise(100, 100))[1] == (math.isqrt(crops),) * 2
    (tmp_path / "4" / "preprocessor_config.json").write_text("{}")
    assert Phi3VProcessor.from_pretrained(tmp_path / "4").num_crops == 16


def test_a_prompt_without_its_image_is_an_error(folder: Path) -> None:
    captioner = Captioner.open(str(folder), precision="fp32", max_new_tokens=2)
    inputs = captioner.loaded.processor(PROMPT, [noise(30, 30)])
    with pytest.raises(ValueError, match="there is none"):
        captioner.loaded.model(input_ids=inputs["input_ids"])
    with pytest.raises(ValueError, match=r"757 image features for 756 places"):
        captioner.loaded.model(**{**inputs, "input_ids": inputs["input_ids"].index_fill(1, torch.tensor([40]), 5)})


def test_it_is_asked_again_like_the_others(folder: Path) -> None:
    """Penalties work on the tokens of the prompt, of which those of the image are ordinary ones."""
    captioner = Captioner.open(str(folder), precision="fp32", max_new_tokens=12)
    plain, retried = (captioner.caption([noise(60, 60)], PROMPT, retry=retry)[0] for retry in (False, True))
    assert not isinstance(retried, Problem) and plain != retried


def test_answers_end_with_the_turn(folder: Path) -> None:
    captioner = Captioner.open(str(folder), precision="fp32")
    ends = captioner.loaded.model.generation_config.eos_token_id
    tokenizer = captioner.loaded.processor.tokenizer
    assert {tokenizer.convert_tokens_to_ids("<|end|>"), tokenizer.eos_token_id} <= set(ends)
