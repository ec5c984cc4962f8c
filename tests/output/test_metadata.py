"""The marks in pictures: written, read back, and never at the price of a picture that was there."""

from __future__ import annotations

import errno
import json
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.output import metadata

PICTURE = Image.fromarray(np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3))
SETTINGS = {
    "prompt": '草原のシマウマ <&> "quoted" ]]>',
    "model": "nano",
    "seed": 7,
    "steps": 20,
    "guidance": 4.5,
}
ENDINGS = [".png", ".jpg", ".jpeg", ".webp"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_marks_come_back(tmp_path, ending):
    path = metadata.save(PICTURE, tmp_path / f"out{ending}", settings=SETTINGS)
    marks = metadata.read(path)
    assert marks.synthetic
    assert marks.digital_source_type == metadata.TRAINED_ALGORITHMIC_MEDIA
    assert marks.settings == SETTINGS


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("with_settings", [True, False])
def test_mark_and_settings_are_independent(tmp_path, ending, marked, with_settings):
    path = tmp_path / f"out{ending}"
    metadata.save(PICTURE, path, settings=SETTINGS if with_settings else None, marked=marked)
    marks = metadata.read(path)
    assert marks.synthetic is marked
    assert (b"trainedAlgorithmicMedia" in path.read_bytes()) is marked
    if with_settings:
        assert marks.settings == SETTINGS
    if not with_settings:
        assert marks.settings is None and b"steps" not in path.read_bytes()


@given(st.text(max_size=300))
@settings(max_examples=60, deadline=None)
def test_any_prompt_survives(tmp_path_factory, prompt):
    folder = tmp_path_factory.mktemp("any")
    for ending in (".png", ".jpg", ".webp"):
        path = metadata.save(PICTURE, folder / f"out{ending}", settings={"prompt": prompt})
        assert metadata.read(path).settings == {"prompt": prompt}


def test_lone_surrogates_of_an_odd_command_line_survive(tmp_path):
    for ending in (".png", ".jpg", ".webp"):
        path = metadata.save(PICTURE, tmp_path / f"a{ending}", settings={"prompt": "caf\udce9 \ufffe \x00"})
        assert metadata.read(path).settings == {"prompt": "caf\udce9 \ufffe \x00"}


def test_pixels_of_a_png_are_untouched_and_bytes_reproducible(tmp_path):
    first = metadata.save(PICTURE, tmp_path / "a.png", settings=SETTINGS)
    second = metadata.save(PICTURE, tmp_path / "b.png", settings=SETTINGS)
    assert first.read_bytes() == second.read_bytes()
    assert np.array_equal(np.asarray(Image.open(first)), np.asarray(PICTURE))


def test_pillow_itself_finds_the_chunks(tmp_path):
    path = metadata.save(PICTURE, tmp_path / "a.png", settings=SETTINGS)
    with Image.open(path) as image:
        image.load()
        assert json.loads(image.text["commonart"]) == SETTINGS
        assert "草原のシマウマ" in image.text["commonart"]  # readable, not escaped
        assert "trainedAlgorithmicMedia" in image.text["XML:com.adobe.xmp"]


def test_other_writers_forms_of_the_mark_are_read(tmp_path):
    rdf = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
    base = f"<rdf:RDF {rdf}><rdf:Description {{}}>{{}}</rdf:Description></rdf:RDF>"
    space = 'xmlns:I="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    uri = metadata.TRAINED_ALGORITHMIC_MEDIA
    for i, packet in enumerate(
        [
            base.format(f'{space} I:DigitalSourceType="{uri}"', ""),
            base.format(space, f'<I:DigitalSourceType rdf:resource="{uri}"/>'),
        ]
    ):
        PICTURE.save(tmp_path / f"{i}.jpg", xmp=packet.encode())
        assert metadata.read(tmp_path / f"{i}.jpg").synthetic


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"not xml at all",
        b"<x:xmpmeta",
        b'<!DOCTYPE a [<!ENTITY b "cc"><!ENTITY d "&b;&b;">]><a>&d;</a>',
        b"\xff\xfe\x00broken",
    ],
)
def test_a_strange_packet_means_no_mark(tmp_path, packet):
    PICTURE.save(tmp_path / "a.jpg", xmp=packet) if packet else PICTURE.save(tmp_path / "a.jpg")
    assert metadata.read(tmp_path / "a.jpg") == metadata.Marks(None, None)


def test_nothing_is_overwritten_unless_asked(tmp_path):
    path = tmp_path / "out.png"
    path.write_bytes(b"mine")
    with pytest.raises(UsageError, match="already exists") as error:
        metadata.save(PICTURE, path)
    assert "--overwrite" in error.value.fix and error.value.code == 2
    assert path.read_bytes() == b"mine" and os.listdir(tmp_path) == ["out.png"]
    metadata.save(PICTURE, path, overwrite=True)
    assert metadata.read(path).synthetic


def test_a_name_taken_in_the_meantime_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "out.png"
    slow = PICTURE.copy()
    monkeypatch.setattr(slow, "save", lambda *_, **__: path.write_bytes(b"another process"), raising=False)
    with pytest.raises(UsageError, match="already exists"):
        metadata.save(slow, path)
    assert path.read_bytes() == b"another process" and os.listdir(tmp_path) == ["out.png"]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CommonArtError, match="No space left"):
        metadata.save(PICTURE, tmp_path / "out.png")
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CommonArtError, match=r"none/out.png cannot be written \(No such file"):
        metadata.save(PICTURE, tmp_path / "none" / "out.png")


@pytest.mark.parametrize("name", ["out.gif", "out", "out.png.txt"])
def test_an_ending_that_cannot_carry_marks(tmp_path, name):
    with pytest.raises(UsageError, match=r"\.png, \.jpg or \.webp"):
        metadata.save(PICTURE, tmp_path / name)


def test_settings_too_long_for_a_jpeg(tmp_path):
    with pytest.raises(CommonArtError, match="do not fit into a JPEG") as error:
        metadata.save(PICTURE, tmp_path / "a.jpg", settings={"prompt": "字" * 30_000})
    assert "--no-metadata" in error.value.fix
    path = metadata.save(PICTURE, tmp_path / "a.png", settings={"prompt": "字" * 30_000})
    assert metadata.read(path).settings == {"prompt": "字" * 30_000}


def test_hostile_pictures_are_sentences_or_nothing(tmp_path):
    chunks = PngInfo()
    chunks.add_itxt("commonart", "[" * 100_000)
    PICTURE.save(tmp_path / "deep.png", pnginfo=chunks)
    assert metadata.read(tmp_path / "deep.png").settings is None
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "bomb.png").write_bytes(head + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND")))
    with pytest.raises(CommonArtError, match="is not an image"):
        metadata.read(tmp_path / "bomb.png")


def test_what_is_no_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(b"hello")
    with pytest.raises(CommonArtError, match="is not an image"):
        metadata.read(tmp_path / "a.png")
    with pytest.raises(CommonArtError, match="does not exist"):
        metadata.read(tmp_path / "b.png")


def test_the_file_gets_the_users_permissions(tmp_path):
    path = metadata.save(PICTURE, tmp_path / "a.png")
    (tmp_path / "plain").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_png_with_long_text_is_read(tmp_path):
    text = PngInfo()
    text.add_text("workflow", "a" * (4 << 20), zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "long.png", pnginfo=text)
    assert metadata.read(tmp_path / "long.png").settings is None
