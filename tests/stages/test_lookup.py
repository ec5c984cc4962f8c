"""lookup: what is found, by whom it was trained on, what is said where nothing is, and that what was removed is gone."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lookup_shards
import orjson
import pytest
from commands import Command
from lookup_shards import AUTHORS, encoded, picture, pictures, record

from commonart.core.data.admission import Rules
from commonart.core.data.blocklist import append_entries, read_blocklist
from commonart.core.data.files import lock
from commonart.core.data.shards.reader import read_bytes, read_shard
from commonart.core.licenses.policies import Policy
from commonart.core.output import lookup_text


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """shards/, and runs/one that was trained on them."""
    folder = tmp_path_factory.mktemp("made")
    lookup_shards.make(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        lookup_shards.run(folder / "runs" / "one")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def lines(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in done.stdout.splitlines()]


def keys(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    return [line["key"] for line in lines(done)]


def test_a_record_with_all_that_is_known_of_it(here: Path, in_process: Command) -> None:
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
def test_by_what_a_record_is_found(here: Path, in_process: Command, arguments: list[str], expected: list[str]) -> None:
    done = in_process("lookup", *arguments, "--json")
    assert keys(done) == expected and done.returncode == (0 if expected else 1)
    assert b"Error" not in done.stderr, "not found is no error"
    text = in_process("lookup", *arguments)
    assert text.returncode == done.returncode and (b"Not found in shards, 12 records." in text.stdout) == (not expected)


def test_an_image_is_found_by_its_bytes_those_of_the_shard_and_its_looks(here: Path, in_process: Command) -> None:
    original = (here / "raw" / "5.jpg").read_bytes()
    for digest in (hashlib.sha256(original).hexdigest().upper(), read(here, "k05")["shard_sha256"]):
        assert keys(in_process("lookup", "--sha256", digest, "--json")) == ["k05"]
    from PIL import Image

    image = Image.open(here / "raw" / "5.jpg")
    copies = {
        "same.jpg": original, "in-shard.jpg": read_bytes(read(here, "k05", whole=True)["image"]),
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


def read(here: Path, key: str, whole: bool = False) -> dict[str, Any]:
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


def test_a_copy_that_came_back_is_found_by_the_key_that_was_removed(tmp_path: Path, in_process: Command) -> None:
    """As after a removal that was killed between two shards: the same command finishes it."""
    raw = tmp_path / "raw"
    raw.mkdir()
    data, *others = pictures(3)
    records = [record(n, each, raw) for n, each in enumerate([data, *others, data])]
    shards = tmp_path / "shards"
    lookup_shards.stage.run(lookup_shards.written(raw, records), str(shards), size=64, shard_size=2, quiet=True)
    shutil.copytree(shards, tmp_path / "before")
    assert in_process("lookup", "--key", "k00", "--remove").returncode == 0
    for path in (tmp_path / "before").glob("00001.*"):
        shutil.copy(path, shards)
    (found, told) = lines(in_process("lookup", "--key", "k00", "--json"))
    assert (found["key"], found["match"], found["by"], told["match"]) == ("k03", "exact", "sha256", "removed")
    assert [each["match"] for each in lines(in_process("lookup", "--key", "k01", "--json"))] == ["exact"]
    assert in_process("lookup", "--key", "k00", "--remove").returncode == 0
    assert in_process("lookup", "--sha256", records[0]["sha256"]).returncode == 1


def test_a_run_is_known_by_its_fingerprint_where_its_shards_have_moved(here: Path, in_process: Command) -> None:
    (here / "q").mkdir()
    (here / "runs" / "one").rename(here / "q" / "run")
    (here / "shards").rename(here / "q" / "shards")

    def trained() -> list[tuple[str, bool | None]]:
        done = in_process("lookup", "--key", "k04", "q/run", "q/shards", "--json")
        assert b"warning" not in done.stderr
        return [(each["run"], each["trained"]) for each in lines(done)[0]["runs"]]

    assert trained() == [("q/run", True)]
    assert in_process("lookup", "--key", "k05", "q/run", "q/shards", "--remove").returncode == 0
    assert trained() == [("q/run", True)], "also after a removal"
    (here / "q" / "shards" / "00002.tar").unlink()
    done = in_process("lookup", "--key", "k04", "q/run", "q/shards", "--json")
    assert lines(done)[0]["runs"][0]["why"] == "not known: shards is not there"
    assert b"q/run was trained on shards, which is not there." in done.stderr


def test_a_run_of_several_folders_that_have_moved(here: Path, in_process: Command) -> None:
    from commonart.core.data.training_index import read_index

    raw = here / "more"
    raw.mkdir()
    made = [record(n, data, raw, key=f"other{n}") for n, data in enumerate(pictures(14)[11:])]
    lookup_shards.stage.run(lookup_shards.written(raw, made), str(here / "b"), size=64, quiet=True)
    both = f"{here / 'shards'},{here / 'b'}:0.5"
    lookup_shards.run(here / "runs" / "two", folder="gone/a,gone/b:0.5", fingerprint=read_index(both).fingerprint)
    (found,) = lines(in_process("lookup", "--key", "other1", "b", "runs/two", "shards", "--json"))
    assert [(each["run"], each["trained"]) for each in found["runs"]] == [("runs/two", True)]


def test_which_runs_had_it(here: Path, in_process: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    lookup_shards.run(here / "runs" / "begun", checkpoint=False)
    lookup_shards.run(here / "runs" / "part", left_out={"no_caption_in_language": 2, "no_captions": 1})
    lookup_shards.run(here / "runs" / "older", fingerprint="0" * 64)
    lookup_shards.run(here / "runs" / "elsewhere", folder="gone/", fingerprint="1" * 64)
    (here / "runs" / "empty").mkdir()
    (here / "runs" / "broken").mkdir()
    (here / "runs" / "broken" / "run.json").write_text('{"data": []}')
    done = in_process("lookup", "--key", "k05", "--json")
    (found,) = lines(done)
    assert [(each["run"], each["trained"], each["why"]) for each in found["runs"]] == [
        ("runs/begun", False, "not yet: no checkpoint was written"),
        ("runs/elsewhere", None, "not known: gone/ is not there"),
        ("runs/older", None, "not known: its shards changed since it was trained"),
        ("runs/one", True, "in its training data"),
        ("runs/part", None, "in its data, of which it left some out (no_caption_in_language 2)"),
    ]
    warned = done.stderr.decode()
    assert "runs/broken/run.json does not say what the run was trained on. It is left out." in warned
    assert "runs/elsewhere was trained on gone/, which is not there." in warned
    heldout = next(
        each["key"] for tar in (here / "shards").glob("*.tar") for each in read_shard(tar) if each["split"] == "heldout"
    )
    (found,) = lines(in_process("lookup", "--key", heldout, "--json", "runs/one"))
    assert found["runs"] == [{"run": "runs/one", "trained": False, "why": "no: held out"}]


def test_what_a_run_left_out_by_its_policy_and_languages(
    here: Path, in_process: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    shutil.rmtree(here / "runs" / "one")
    left_out = {"license_not_allowed:CC-BY-2.0": 3, "no_usable_caption": 1, "no_captions": 1}

    def run(name: str, policy: Rules, languages: dict[str, float] | None = None, **more: int) -> None:
        path = (
            lookup_shards.run(here / "runs" / name, left_out={**left_out, **more}, policy=policy.describe())
            / "run.json"
        )
        path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), "languages": languages or {}}))

    public = Policy("own", {"CC0-1.0": "own"}, frozenset())
    run("allowed", Rules())
    run("blocked", Rules(), blocklisted=2)
    run("english", Rules(), {"en": 1.0, "ja": 0.0})
    run("japanese", Rules(), {"en": 0.0, "ja": 1.0})
    run("public", Rules(public))
    (found,) = lines(in_process("lookup", "--key", "k05", "--json"))
    assert [(each["run"].removeprefix("runs/"), each["trained"], each["why"]) for each in found["runs"]] == [
        ("allowed", True, "in its training data"),
        ("blocked", None, "in its data, of which it left some out (blocklisted 2)"),
        ("english", True, "in its training data"),
        ("japanese", False, "no: it could use none of its captions"),
        ("public", False, "no: its policy does not allow it (license_not_allowed:CC-BY-2.0)"),
    ]


def test_what_was_removed_is_gone_and_stays_away(here: Path, in_process: Command) -> None:
    (here / "blocklist.txt").write_text("# mine\nkey: other", "utf-8")
    done = in_process("lookup", "--url", "https://example.org/works/5", "--remove")
    assert done.returncode == 0
    text = done.stdout.decode()
    assert "Removed 1 record, features included; 3 shards were written again." in text
    assert (
        "What a model has learned stays in it: runs/one had this in the training data. Train anew without it." in text
    )
    sha256 = hashlib.sha256((here / "raw" / "5.jpg").read_bytes()).hexdigest()
    blocked = (here / "blocklist.txt").read_text().splitlines()
    assert blocked[:2] == ["# mine", "key: other"] and blocked[2].startswith("# commonart lookup --remove, 20")
    assert blocked[3:] == ["url: https://example.org/works/5", f"sha256: {sha256}"]
    done = in_process("lookup", "--url", "https://example.org/works/5")
    assert done.returncode == 1
    removed, missing = done.stdout.decode().splitlines()
    assert removed.startswith("removed from shards on 20") and "was in the training data of runs/one" in removed
    assert missing == "Not found in shards, 11 records."
    for arguments in (["--key", "k05"], ["--sha256", sha256], ["--image", "raw/5.jpg"]):
        (told,) = lines(in_process("lookup", *arguments, "--json"))
        assert (told["match"], told["keys"], told["runs"]) == ("removed", ["k05"], ["runs/one"]), arguments
    (found,) = lines(in_process("lookup", "--key", "k04", "--json"))
    assert found["runs"][0]["trained"] is True, "of the others it is known as before"
    again = in_process("shard", "raw/list.jsonl", "-o", "again", "--size", "64", "--blocklist", "blocklist.txt", "-q")
    assert orjson.loads(again.stderr)["dropped"] == {"blocklisted": 1}
    assert in_process("lookup", "--key", "k05", "again").returncode == 1
    assert in_process("lookup", "--url", "https://example.org/works/5", "--remove").returncode == 1, (
        "nothing is left to do"
    )
    assert (here / "blocklist.txt").read_text().splitlines() == blocked


def test_an_author_is_removed_with_all_works_and_an_image_with_its_copies(here: Path, in_process: Command) -> None:
    done = in_process("lookup", "--author", AUTHORS[1], "--remove", "--json")
    *found, told = lines(done)
    assert [each["key"] for each in found] == ["k01", "k05", "k09"] and told["removed"] == 3
    assert told["entries"] == 1 and len(told["files"]) == 9 and told["runs"] == ["runs/one"]
    assert (here / "blocklist.txt").read_text().splitlines()[1:] == [f"author: {AUTHORS[1]}"]
    assert in_process("lookup", "--author", AUTHORS[1]).returncode == 1
    from PIL import Image

    (here / "copy.png").write_bytes(encoded(Image.open(here / "raw" / "6.jpg").resize((70, 70)), "PNG"))
    *found, told = lines(in_process("lookup", "--image", "copy.png", "--remove", "--json"))
    assert [(each["key"], each["match"]) for each in found] == [("k06", "near")] and told["removed"] == 1
    assert in_process("lookup", "--key", "k06").returncode == 1
    blocked = read_blocklist(str(here / "blocklist.txt"))
    assert blocked.entry_of({"sha256": hashlib.sha256((here / "copy.png").read_bytes()).hexdigest()})
    assert blocked.entry_of({"sha256": hashlib.sha256((here / "raw" / "6.jpg").read_bytes()).hexdigest()})


def test_near_copies_stay_where_an_address_is_removed(tmp_path: Path, in_process: Command) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    data, other = pictures(2)
    from io import BytesIO

    from PIL import Image

    copy = encoded(Image.open(BytesIO(data)), quality=60)
    records = [record(n, each, raw) for n, each in enumerate([data, other, copy])]
    lookup_shards.stage.run(lookup_shards.written(raw, records), str(tmp_path / "shards"), size=64, quiet=True)
    assert records[2]["sha256"] != records[0]["sha256"]
    kept = [each["key"] for tar in (tmp_path / "shards").glob("*.tar") for each in read_shard(tar)]
    done = in_process("lookup", "--key", "k00", "--remove")
    if "k02" in kept:
        assert b"Near copies that were kept: 1. Remove those by --key or --image." in done.stdout
        assert in_process("lookup", "--key", "k02").returncode == 0


def test_features_without_a_record_are_told(here: Path, in_process: Command) -> None:
    for name in ("tar", "idx", "json"):
        (here / "shards" / f"00001.{name}").unlink()
    done = in_process("lookup", "--key", "k05", "shards", "--json")
    assert done.returncode == 1 and [each["where"] for each in lines(done)] == [
        "shards/text/00001.tar#k05.text.safetensors", "shards/image/00001.tar#k05.latent.safetensors"
    ]  # fmt: skip
    assert (
        b"features without a record: shards/text/00001.tar#k05" in in_process("lookup", "--key", "k05", "shards").stdout
    )


def test_names_that_steer_a_terminal(here: Path, in_process: Command) -> None:
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
def test_what_cannot_be_looked_for(here: Path, in_process: Command, arguments: list[str], what: str) -> None:
    (here / "bad.png").write_bytes(b"\x89PNG not an image")
    (here / "empty").mkdir()
    (here / "damaged").mkdir()
    (here / "damaged" / "0.tar").write_bytes(b"x" * 3000)
    done = in_process("lookup", *arguments)
    assert done.returncode == 2 and what in done.stderr.decode() and done.stdout == b""
    assert len(done.stderr.decode().strip().splitlines()) == 2, "one sentence, and one that says what to do"


def test_where_there_is_nothing_to_look_in(tmp_path: Path, in_process: Command) -> None:
    done = in_process("lookup", "--key", "a")
    assert done.returncode == 2 and b"there is no runs/ and no shards/ here to look in." in done.stderr
    (tmp_path / "runs" / "empty").mkdir(parents=True)
    done = in_process("lookup", "--key", "a")
    assert done.returncode == 2 and b"runs leads to no shards to look in." in done.stderr


def test_a_run_that_trains_is_not_robbed_of_its_shards(here: Path, in_process: Command) -> None:
    with lock(here / "runs" / "one"):
        done = in_process("lookup", "--key", "k05", "--remove")
    assert done.returncode == 2 and b"runs/one is in use by process" in done.stderr
    assert in_process("lookup", "--key", "k05").returncode == 0
    assert in_process("lookup", "--key", "k05", "--remove").returncode == 0


def test_a_reader_that_goes_and_a_signal(here: Path) -> None:
    command = [sys.executable, "-m", "commonart.cli.main", "lookup", "--author", AUTHORS[0], "--json"]
    with subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None and run.stderr is not None
        run.stdout.close()
        assert run.wait(60) in (141, -signal.SIGPIPE) and b"Traceback" not in run.stderr.read()


def test_many_works_are_counted_and_twenty_are_shown(tmp_path: Path, in_process: Command) -> None:
    from commonart.core.data.shards.writer import ShardWriter

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


def test_entries_are_added_to_a_blocklist_once(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    assert append_entries(path, ["key: a", "key: a", "url: b"], "first") == 2
    assert append_entries(path, ["url: b", "author: c"], "second") == 1
    assert append_entries(path, ["author: c"], "third") == 0
    assert path.read_text() == "# first\nkey: a\nurl: b\n# second\nauthor: c\n"
    assert read_blocklist(str(path)).entry_of({"key": "x", "author": "C"}) == "author C"
