"""The key of this installation: made once, by one of many, readable by its owner alone; images that it signs are known again."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from commonart.core.errors import CommonArtError
from commonart.core.output import c2pa, metadata
from commonart.core.output.own_key import own_key, own_key_path


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


def signed(path: Path) -> Path:
    key = str(own_key())
    return metadata.save(Image.new("RGB", (16, 16)), path, finish=lambda data, kind: c2pa.sign(data, kind, key, key))


def test_it_is_made_once_and_is_its_owners_alone(home):
    first = own_key().read_bytes()
    assert own_key() == own_key_path() == home / "commonart" / "c2pa.pem" and own_key().read_bytes() == first
    assert stat.S_IMODE(own_key().stat().st_mode) == 0o600
    assert os.listdir(home / "commonart") == ["c2pa.pem"]
    c2pa.check(str(own_key()), str(own_key()))


def test_of_many_processes_all_use_the_same_key(home):
    code = (
        "from commonart.core.output.own_key import own_key; import sys; sys.stdout.buffer.write(own_key().read_bytes())"
    )
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(4)]
    keys = {process.communicate()[0] for process in started}
    assert keys == {own_key_path().read_bytes()} and os.listdir(home / "commonart") == ["c2pa.pem"]


def test_what_it_signed_is_trusted_here_and_valid_elsewhere(tmp_path, monkeypatch):
    path = signed(tmp_path / "a.png")
    said = c2pa.read(path)
    assert said is not None and said["state"] == "Trusted" and said["signer"].startswith("commonart installation ")
    assert path.stat().st_size < 5000, "no thumbnail"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "elsewhere"))
    assert (c2pa.read(path) or {})["state"] == "Valid"
    signed(tmp_path / "b.png")  # another key, and a certificate of its own
    assert (c2pa.read(path) or {})["state"] == "Valid"


def test_a_key_that_is_damaged_is_named_with_the_way_out(home):
    own_key().write_text("junk")
    with pytest.raises(
        CommonArtError, match=r"c2pa\.pem, the C2PA key of this installation, is not a PEM private key"
    ) as error:
        c2pa.check(str(own_key()), str(own_key()))
    assert "Move it away" in error.value.fix


@pytest.mark.parametrize("at", [4, 60])
def test_a_broken_manifest_is_said_to_be_one(tmp_path, at):
    data = bytearray(signed(tmp_path / "a.png").read_bytes())
    place = data.index(b"jumb")
    data[place + at : place + at + 4] = b"\xff" * 4
    (tmp_path / "broken.png").write_bytes(data)
    said = c2pa.read(tmp_path / "broken.png")
    assert said is not None and said["state"] in ("Unreadable", "Invalid") and said["problems"]
