"""`inspect`: every layer of marks, what is missing, and what that proves; and `sample`, which puts them there."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from sampling import sample

from commonart.core.errors import CommonArtError
from commonart.core.output import metadata
from commonart.stages.inspect import inspect


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(tiny_pipeline.pipeline(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def draw(model, tmp_path, monkeypatch):
    """`sample` of the tiny model in one step at 256 pixels, inside an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(out: str, **options):
        options = {"model": model, "steps": 1, "size": 256, "device": "cpu", "precision": "fp32", **options}
        return sample(["a"], out=out, **options)

    return run


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(float)


def words(told: dict) -> str:
    return " ".join(told["findings"])


def test_all_layers_are_there_and_each_goes_by_itself(draw):
    draw("all.png")
    told = inspect("all.png")
    assert told["synthetic"] and told["c2pa"]["state"] == "Trusted"
    assert told["watermark"] == {"found": True, "matches": 48, "bits": 48, "p_value": 2.0**-48}
    assert "this installation's own key" in words(told) and "48 of 48 bits" in words(told)
    draw("unsigned.png", c2pa=False)
    draw("plain.png", watermark=False)
    draw("none.png", synthetic=False, settings=False)
    unsigned, plain, none = (inspect(f"{name}.png") for name in ("unsigned", "plain", "none"))
    assert "c2pa" not in unsigned and unsigned["watermark"]["found"]
    assert plain["c2pa"]["state"] == "Trusted" and not plain["watermark"]["found"]
    assert not none["synthetic"] and "c2pa" not in none and "proves nothing" in words(none)
    assert (pixels("plain.png") == pixels("none.png")).all(), "the image itself is the same"
    error = ((pixels("all.png") - pixels("plain.png")) ** 2).mean()
    assert 0 < error < 255**2 / 10**4, "40 dB"
    assert (pixels("all.png") == pixels("unsigned.png")).all()


def test_what_was_stripped_is_said(draw):
    draw("made.png")
    with Image.open("made.png") as image:
        image.convert("RGB").save("again.jpg", quality=80)
    told = inspect("again.jpg")
    assert told["synthetic"] and told["watermark"]["found"] and told["settings"] is None
    assert "there is no metadata and no C2PA signature: that was stripped" in words(told)


def test_a_changed_file_is_said_to_be_changed(draw):
    draw("made.jpg")
    data = Path("made.jpg").read_bytes()
    Path("changed.jpg").write_bytes(data.replace(b"CreatorTool>commonart", b"CreatorTool>paintbrus"))
    told = inspect("changed.jpg")
    assert told["c2pa"][
        "state"
    ] == "Invalid" and "or the signature is another file's (assertion.dataHash.mismatch" in words(told)


def test_a_signature_of_another_image_says_nothing_of_a_photograph(draw):
    draw("made.png", watermark=False)
    made = Path("made.png").read_bytes()
    start = made.index(b"caBX") - 4
    manifest = made[start : start + 12 + int.from_bytes(made[start : start + 4], "big")]
    Image.effect_noise((300, 300), 40).convert("RGB").save("photo.png")
    photo = Path("photo.png").read_bytes()
    Path("pasted.png").write_bytes(photo[:33] + manifest + photo[33:])  # behind IHDR
    told = inspect("pasted.png")
    assert told["c2pa"]["state"] == "Invalid" and told["c2pa"]["digital_source_types"]
    assert told["synthetic"] is None and "or the signature is another file's" in words(told)
    assert inspect("made.png")["synthetic"]


def test_what_an_image_says_steers_no_terminal(tmp_path, in_process):
    prompt = "a\u202eb\x9bc\x85d\ud800"
    info = PngInfo()
    info.add_itxt(metadata.SETTINGS_KEYWORD, json.dumps({"prompt": prompt}))
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "foreign.png", pnginfo=info)
    told = in_process("inspect", str(tmp_path / "foreign.png")).stdout.decode()
    assert '"a\\u202eb\\u009bc\\u0085d\\ud800"' in told and json.loads(told)["settings"]["prompt"] == prompt


def test_small_images_are_not_marked_and_that_is_said(draw):
    draw("small.png", size=64)
    told = inspect("small.png")
    assert not told["watermark"]["found"] and told["c2pa"]["state"] == "Trusted"
    assert "puts none into images with a side below 256 pixels" in words(told)


def test_a_photograph_proves_nothing(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.effect_noise((300, 300), 40).convert("RGB").save(path)
    told = inspect(path)
    assert not told["synthetic"] and told["findings"] == [
        "No mark was found. That proves nothing: marks can be removed, and most tools write none."
    ]


def test_the_log_knows_what_was_made(draw):
    draw("x/", n=2, log="made.jsonl")
    draw("x/", n=2, log="made.jsonl")  # they are there: nothing is made
    lines = [json.loads(line) for line in Path("made.jsonl").read_text("utf-8").splitlines()]
    assert [line["seed"] for line in lines] == [0, 1] and {line["prompt"] for line in lines} == {"a"}
    one = sorted(Path("x").iterdir())[0]
    assert inspect(one, "made.jsonl")["log"]["how"] == "file"
    with Image.open(one) as image:
        image.save("same.webp", lossless=True)
    told = inspect("same.webp", "made.jsonl")
    assert told["log"]["how"] == "pixels" and "made here. Its file is another one: what stands beside" in words(told)
    with Image.open(one) as image:
        image.transpose(Image.Transpose.ROTATE_90).save("turned.png")
    told = inspect("turned.png", "made.jsonl")
    assert told["log"][
        "how"
    ] == "none" and "That proves nothing: an image that was cropped, mirrored, turned or" in words(told)
    draw("private.png", seed=9, settings=False, log="made.jsonl")
    assert "prompt" not in json.loads(Path("made.jsonl").read_text("utf-8").splitlines()[-1])


def test_the_command_tells_by_its_exit_code(draw, in_process, tmp_path):
    draw("made.png", log="made.jsonl")
    Image.effect_noise((64, 64), 90).convert("RGB").save("other.png")
    found, other = (in_process("inspect", "--log", "made.jsonl", name) for name in ("made.png", "other.png"))
    assert (found.returncode, other.returncode) == (0, 1)
    assert json.loads(found.stdout)["log"]["entries"][0]["seed"] == 0
    assert json.loads(other.stdout)["log"]["how"] == "none"
    both = in_process("sample", "a", "--model", "nano", "-o", "b.png", "--no-c2pa", "--sign", "a,b")
    assert both.returncode == 2 and b"--no-c2pa and --sign contradict" in both.stderr
    one = in_process("sample", "a", "--model", "nano", "-o", "b.png", "--sign", "one.pem")
    assert one.returncode == 2 and b"--sign CHAIN.pem,KEY.pem" in one.stderr


def test_without_a_home_that_can_be_written_images_are_made_and_a_warning_says_why(draw, monkeypatch, capsys):
    Path("file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", "file")
    draw("made.png", size=64)
    assert "images are not signed: file/commonart/c2pa.pem cannot be written" in capsys.readouterr().err
    assert "c2pa" not in inspect("made.png") and inspect("made.png")["synthetic"]


def test_a_sheet_is_signed_too(draw):
    draw("made.png", grid="sheet.png")
    assert inspect("sheet.png")["c2pa"]["state"] == "Trusted"


def test_a_truncated_image_is_an_error(draw):
    draw("made.png")
    Path("half.png").write_bytes(Path("made.png").read_bytes()[:-5000])
    with pytest.raises(CommonArtError, match=r"half\.png: its pixels cannot be read"):
        inspect("half.png")
    assert metadata.read("half.png").synthetic, "its header is whole"


def test_a_damaged_c2pa_part_hides_neither_metadata_nor_watermark(draw):
    draw("all.png")
    data = bytearray(Path("all.png").read_bytes())
    place = data.index(b"caBX") + 200
    data[place] ^= 1
    Path("damaged.png").write_bytes(data)
    told = inspect("damaged.png")
    assert told["synthetic"] and told["watermark"]["found"] and "Parts of the PNG are damaged (C2PA)" in words(told)
    assert told.get("c2pa", {}).get("state") not in ("Trusted", "Valid")
    end = data.index(b"caBX") + int.from_bytes(data[data.index(b"caBX") - 4 : data.index(b"caBX")], "big") + 4
    data[end : end + 4] = zlib.crc32(data[data.index(b"caBX") : end]).to_bytes(4, "big")
    Path("repaired.png").write_bytes(data)
    again = words(inspect("repaired.png"))
    assert "damaged (C2PA)" not in again and "signingCredential.untrusted" not in again
    pixels_damaged = bytearray(Path("all.png").read_bytes())
    pixels_damaged[pixels_damaged.index(b"IDAT") + 100] ^= 1
    Path("pixels.png").write_bytes(pixels_damaged)
    with pytest.raises(CommonArtError, match="pixels cannot be read"):
        inspect("pixels.png")


def test_a_whole_signature_without_a_watermark_says_that_nothing_was_taken_out(draw):
    draw("plain.png", watermark=False)
    told = words(inspect("plain.png"))
    assert "have not changed since they were signed: the image was made without one, as contact sheets are" in told
    assert "changed too much" not in told
