"""lookup: what is found, how it is shown, and what is said where nothing is."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lookup_shards
import orjson
import pytest
from commands import Command
from lookup_shards import AUTHORS, encoded, here, lines, made, picture, pictures, record
from PIL import Image

from commonart.core.data.shards.reader import read_bytes, read_shard
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.output import lookup_text

__all__ = ["here", "made"]  # the fixtures


def keys(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    return [line["key"] for line in lines(done)]


def test_a_record_is_shown_with_all_that_is_known_of_it(here: Path, in_process: Command) -> None:
    done = in_process("lookup", "--url", "http://www.example.org/works/5/#top")
    assert done.returncode == 0
    text = done.stdout.decode().splitlines()
    assert text[0] == "shards/00001.tar#k05" and text[-1] == "Found: 1 of 12 records in shards."
    for line in (
        "  match    exact", "  title    work 5", f"  author   {AUTHORS[1]}",
        "  licence  CC-BY-2.0 https://creativecommons.org/licenses/by/2.0/, observed 2026-01-02T00:00:00Z",
        "  page     https://example.org/works/5", "  image    https://img.example.org/5.jpg", "  split    train",
        "  caption  en (nano): stripes 5", "  features shards/text/00001.tar#k05.text.safetensors",
        "  features shards/image/00001.tar#k05.latent.safetensors", "  run      runs/one: in its training data",
    ):  # fmt: skip
        assert line in text, line
    assert orjson.loads(done.stderr)["in"] == 12 and orjson.loads(done.stderr)["out"] == 1
    (found,) = lines(in_process("lookup", "--key", "k05", "--json", "shards"))
    assert (found["match"], found["by"], found["bits"], found["where"]) == ("exact", "key", 0, "shards/00001.tar#k05")
    assert found["runs"] == [] and found["captions"][0]["text"] == "stripes 5", "no run was named"
    (found,) = lines(in_process("lookup", "--key", "k05", "--json", "runs/one"))
    assert found["runs"] == [{"run": "runs/one", "trained": True, "why": "in its training data"}]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--url", "https://img.example.org/7.jpg"], ["k07"]),
        (["--url", "https://img.example.org/7"], []),
        (["--author", "JANE   doe"], ["k00", "k04", "k08"]),
        (["--author", "Jane"], []),
        (["--key", "k07"], ["k07"]),
        (["--sha256", "0" * 64], []),
    ],
)
def test_a_record_is_found_by_address_author_key_or_hash(
    here: Path, in_process: Command, arguments: list[str], expected: list[str]
) -> None:
    done = in_process("lookup", *arguments, "--json")
    assert keys(done) == expected and done.returncode == (0 if expected else 1)
    assert b"Error" not in done.stderr, "not found is no error"
    text = in_process("lookup", *arguments)
    assert text.returncode == done.returncode and (b"Not found in shards, 12 records." in text.stdout) == (not expected)


def test_an_image_is_found_by_its_bytes_those_of_the_shard_and_its_looks(here: Path, in_process: Command) -> None:
    original = (here / "raw" / "5.jpg").read_bytes()
    for digest in (hashlib.sha256(original).hexdigest().upper(), read(here, "k05")["shard_sha256"]):
        assert keys(in_process("lookup", "--sha256", digest, "--json")) == ["k05"]
    image = Image.open(here / "raw" / "5.jpg")
    copies = {
        "same.jpg": original, "in-shard.jpg": read_bytes(read(here, "k05")["image"]),
        "small.png": encoded(image.resize((50, 50)), "PNG"), "again.jpg": encoded(image, quality=60),
        "large.webp": encoded(image.resize((300, 300)), "WEBP"),
    }  # fmt: skip
    for name, data in copies.items():
        (here / name).write_bytes(data)
        (found,) = lines(in_process("lookup", "--image", name, "--json"))
        assert found["key"] == "k05" and found["bits"] <= 4, name
        assert found["match"] == ("exact" if name in ("same.jpg", "in-shard.jpg") else "near"), name
    red, green, blue = image.convert("RGB").split()
    (here / "recoloured.png").write_bytes(encoded(Image.merge("RGB", (blue, green, red)), "PNG"))
    assert in_process("lookup", "--image", "recoloured.png").returncode == 1, "as grey it is the same image"
    (here / "other.jpg").write_bytes(encoded(picture(999)))
    none = in_process("lookup", "--image", "other.jpg")
    assert none.returncode == 1 and none.stdout.decode().splitlines()[1] == lookup_text.COVERS
    assert b"Searched by" not in in_process("lookup", "--key", "k05").stdout


def read(here: Path, key: str) -> dict[str, Any]:
    return next(
        each for tar in sorted((here / "shards").glob("*.tar")) for each in read_shard(tar) if each["key"] == key
    )


def test_copies_under_other_names_are_shown_and_licences_that_differ(tmp_path: Path, in_process: Command) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    data, *others = pictures(3)
    records = [record(n, each, raw) for n, each in enumerate([data, data, *others])]
    records[1] |= {"license": "LicenseRef-All-Rights-Reserved", "license_url": "", "author": "somebody else"}
    lookup_shards.stage.run(lookup_shards.written(raw, records), str(tmp_path / "shards"), size=64, quiet=True)
    done = in_process("lookup", "--sha256", records[0]["sha256"], "--json")
    assert [(each["key"], each["license"]) for each in lines(done)] == [
        ("k00", "CC-BY-2.0"), ("k01", "LicenseRef-All-Rights-Reserved")
    ]  # fmt: skip
    text = in_process("lookup", "--sha256", records[0]["sha256"]).stdout.decode()
    assert f"the records of {records[0]['sha256'][:12]}... state different licences: CC-BY-2.0, LicenseRef-All" in text
    done = in_process("lookup", "--key", "k00", "--json")
    assert [(each["key"], each["match"]) for each in lines(done)] == [("k00", "exact"), ("k01", "exact")]
    done = in_process("lookup", "--key", "k00", "--remove", "--json")
    assert lines(done)[-1]["removed"] == 2, "what has the same bytes is the same work"
    for arguments in (["--sha256", records[0]["sha256"]], ["--key", "k01"]):
        assert [each["match"] for each in lines(in_process("lookup", *arguments, "--json"))] == ["removed"]
    done = in_process("lookup", "--key", "k02", "--json")
    assert [each["key"] for each in lines(done)] == ["k02"]


def test_features_without_a_record_are_reported(here: Path, in_process: Command) -> None:
    for name in ("tar", "idx", "json"):
        (here / "shards" / f"00001.{name}").unlink()
    done = in_process("lookup", "--key", "k05", "shards", "--json")
    assert done.returncode == 1 and [each["where"] for each in lines(done)] == [
        "shards/text/00001.tar#k05.text.safetensors", "shards/image/00001.tar#k05.latent.safetensors"
    ]  # fmt: skip
    assert (
        b"features without a record: shards/text/00001.tar#k05" in in_process("lookup", "--key", "k05", "shards").stdout
    )


def test_names_that_steer_a_terminal_are_escaped(here: Path, in_process: Command) -> None:
    as_json = in_process("lookup", "--author", AUTHORS[3], "--json").stdout.decode()
    assert (
        "\\u202eevil" in as_json
        and "\u202e" not in as_json
        and orjson.loads(as_json.splitlines()[0])["author"] == AUTHORS[3]
    )
    text = in_process("lookup", "--author", AUTHORS[3]).stdout.decode()
    assert "  author   \\u202eevil\\x1b[31m" in text and "\x1b" not in text and "\u202e" not in text
    assert "  author   <b>Bob</b>" in in_process("lookup", "--key", "k02").stdout.decode()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "lookup needs one of --url, --sha256, --image, --author and --key, and got none."),
        (["--url", "a", "--key", "b"], "and got --url and --key."),
        (["--sha256", "12"], "--sha256 12 is not a SHA-256."),
        (["--image", "none.png"], "--image none.png cannot be read: No such file or directory."),
        (["--image", "bad.png"], "--image bad.png cannot be decoded:"),
        (["--key", "a", "nowhere"], "nowhere is not a folder."),
        (["--key", "a", "raw"], "raw is neither a run nor a folder of shards."),
        (["--key", "a", "empty"], "empty is neither a run nor a folder of shards."),
        (["--key", "a", "damaged"], "damaged/0.tar is not a complete tar"),
        (["--recheck", "1", "--serve"], "--recheck and --serve do not go together."),
        (["--recheck", "1", "--key", "a", "--remove"], "--recheck and --key and --remove do not go together."),
        (["--serve", "--address", "x"], "'x' is not an address."),
        (["--key", "k05", "--remove", "--blocklist", "raw"], "--blocklist raw is a folder."),
    ],
)  # fmt: skip
def test_what_cannot_be_looked_for_is_a_usage_error(
    here: Path, in_process: Command, arguments: list[str], what: str
) -> None:
    (here / "bad.png").write_bytes(b"\x89PNG not an image")
    (here / "empty").mkdir()
    (here / "damaged").mkdir()
    (here / "damaged" / "0.tar").write_bytes(b"x" * 3000)
    done = in_process("lookup", *arguments)
    assert done.returncode == 2 and what in done.stderr.decode() and done.stdout == b""
    assert len(done.stderr.decode().strip().splitlines()) == 2, "one sentence, and one that says what to do"


def test_a_folder_with_nothing_to_look_in_is_a_usage_error(tmp_path: Path, in_process: Command) -> None:
    done = in_process("lookup", "--key", "a")
    assert done.returncode == 2 and b"there is no runs/ and no shards/ here to look in." in done.stderr
    (tmp_path / "runs" / "empty").mkdir(parents=True)
    done = in_process("lookup", "--key", "a")
    assert done.returncode == 2 and b"runs leads to no shards to look in." in done.stderr


def test_a_reader_that_closes_the_pipe_gets_no_traceback(here: Path) -> None:
    command = [sys.executable, "-m", "commonart.cli.main", "lookup", "--author", AUTHORS[0], "--json"]
    with subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None and run.stderr is not None
        run.stdout.close()
        assert run.wait(60) in (141, -signal.SIGPIPE) and b"Traceback" not in run.stderr.read()


def test_many_works_are_counted_and_twenty_are_shown(tmp_path: Path, in_process: Command) -> None:
    for shard in range(3):
        with ShardWriter(tmp_path / "shards" / f"{shard}.tar") as writer:
            for n in range(15):
                writer.add_record({"key": f"k{shard}-{n}", "author": "Jane Doe", "sha256": f"{n:064x}"}, b"x", "jpg")
    text = in_process("lookup", "--author", "jane doe").stdout.decode()
    assert text.count("  author   Jane Doe") == 20
    assert text.endswith("Found: 45 of 45 records in shards (25 more than are shown; --json writes all).\n")
    done = in_process("lookup", "--author", "jane doe", "--json")
    assert len(lines(done)) == 45
    (tmp_path / "white.png").write_bytes(encoded(picture(1).point(lambda _: 255), "PNG"))
    done = in_process("lookup", "--image", "white.png")
    assert done.returncode == 1 and b"45 of 45 records have no perceptual hash" in done.stderr
    assert b"white.png is too plain" in done.stderr
