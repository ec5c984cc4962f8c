"""fetch hf:OWNER/NAME: data sets of the hub, in parquet and in tars, through the hub's own client and a local server."""

from __future__ import annotations

import tarfile
from pathlib import Path

import orjson
import pytest
from commands import Command
from hub_server import HubServer
from small_commoncatalog import PAGE, catalogue, commoncatalog, hub, packed, parquet, photo

from commonart.core.data import jsonl, stream
from commonart.core.data.drops import PassedOver
from commonart.core.data.shards import reader
from commonart.core.errors import CommonArtError, UsageError
from commonart.stages import fetch as stage

__all__ = ["hub"]  # the fixture


def test_the_command_reads_the_hub_of_the_environment(hub: HubServer, commonart: Command, tmp_path: Path) -> None:
    commoncatalog(hub)
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    done = commonart("fetch", "hf:common-canvas/commoncatalog-cc-by", "-o", "raw", "--limit", "7", **env)
    assert done.returncode == 0, done.stderr
    assert len(list(stream.read(str(tmp_path / "raw")))) == 7


def test_one_id_in_two_files_is_one_record_unless_places_make_the_keys(
    hub: HubServer, commonart: Command, tmp_path: Path
) -> None:
    tables = [[{"url": f"https://example.org/{n}.jpg", "id": n} for n in part] for part in ((0, 1, 2), (3, 1))]
    hub.add("owner/two", {f"{n}.parquet": parquet(rows) for n, rows in enumerate(tables)})
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    for options, written, dropped in (((), 4, {"duplicate_key": 1}), (("--column-map", "source_id="), 5, {})):
        done = commonart("fetch", "hf:owner/two", "--list", *options, **env)
        summary = orjson.loads(done.stderr.splitlines()[-1])
        assert (done.returncode, len(done.stdout.splitlines()), summary["dropped"]) == (0, written, dropped), (
            done.stderr
        )


def test_what_a_card_states_is_taken_only_where_the_user_says_so(hub: HubServer) -> None:
    """The `license:` of a card is mostly that of the list: Megalith's says MIT."""
    hub.add("owner/set", {"a.parquet": parquet([{"url": "https://example.org/1.jpg"}])}, license="cc0-1.0")
    (record,) = stage.listing("hf:owner/set")
    assert (record["license"], record["license_basis"]) == ("", "")
    (record,) = stage.listing("hf:owner/set", license="card")
    assert (record["license"], record["license_basis"], record["license_url"]) == ("CC0-1.0", "set", f"{PAGE}owner/set")
    hub.add("owner/other", {"a.parquet": parquet([{"url": "https://example.org/1.jpg"}])}, license="other")
    with pytest.raises(CommonArtError, match="the card of owner/other states 'other'"):
        list(stage.listing("hf:owner/other", license="card"))


def tar(samples: int) -> bytes:
    note = [
        orjson.dumps({"url": f"https://example.org/{n}.jpg", "license": "CC BY 4.0", "latitude": 1.0})
        for n in range(samples)
    ]
    return packed([
        (f"{n:05d}.{ending}", data)
        for n in range(samples)
        for ending, data in (("jpg", photo(n)), ("json", note[n]), ("txt", f"text {n}".encode()))
    ])  # fmt: skip


def test_samples_of_tars_are_listed_and_fetched(hub: HubServer, tmp_path: Path) -> None:
    card = {"attribution.parquet": b"of a card beside shards, and not read", "README.md": b""}
    hub.add("owner/tars", {"00000.tar": tar(9), "00001.tar": tar(4), **card})
    listed = list(stage.listing("hf:owner/tars"))
    assert len(listed) == 13 == len({record["key"] for record in listed})
    assert hub.sent < 3000 * 13 < 13 * len(photo(0))
    assert listed[2]["license"] == "CC-BY-4.0" and listed[2]["captions"][0]["text"] == "text 2"
    assert "latitude" not in listed[2]
    summary = stage.run("hf:owner/tars", str(tmp_path / "raw"), quiet=True)
    assert summary.written == 13
    expected = [photo(n) for n in (*range(9), *range(4))]
    assert [reader.read_bytes(record["image"]) for record in stream.read(str(tmp_path / "raw"))] == expected


def test_the_address_of_a_work_stays_where_the_data_set_holds_its_image(hub: HubServer) -> None:
    about = {"url": "https://example.org/cat.jpg", "license": "CC0"}
    hub.add("owner/tars", {"0.tar": packed([("1.jpg", photo(1)), ("1.json", orjson.dumps(about))])})
    hub.add("owner/rows", {"0.parquet": parquet([{"image": {"bytes": photo(1), "path": "1.jpg"}, **about}])})
    for name in ("tars", "rows"):
        (record,) = stage.listing(f"hf:owner/{name}")
        assert record["image_url"].startswith(f"hf://datasets/owner/{name}@")
        assert record["source_url"] == about["url"]


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_webdataset_with_long_and_japanese_names(hub: HubServer, tmp_path: Path, kind: int) -> None:
    names = ["猫", "犬", "a/鳥", "x" * 180]
    members = []
    for n, name in enumerate(names):
        note = orjson.dumps({"license": ("CC0-1.0", "CC BY-NC 4.0")[n % 2]})
        members += [(f"{name}.json", note), (f"{name}.jpg", photo(n))][n == 2 :]  # the bird has no note
    hub.add("owner/names", {"00000.tar": packed(members, kind)})
    listed = list(stage.listing("hf:owner/names"))
    assert [record["source_id"] for record in listed] == [f"00000/{name}" for name in names]
    assert [record["license"] for record in listed] == ["CC0-1.0", "CC-BY-NC-4.0", "", "CC-BY-NC-4.0"]
    assert stage.run("hf:owner/names", str(tmp_path / "raw"), quiet=True).written == 4
    assert [reader.read_bytes(r["image"]) for r in stream.read(str(tmp_path / "raw"))] == [photo(n) for n in range(4)]


@pytest.mark.parametrize("local", [False, True])
def test_tars_of_other_tools_are_read_and_their_bad_samples_counted(
    hub: HubServer, tmp_path: Path, local: bool
) -> None:
    """A Mac's `._` files, NaN, a cut surrogate, a sidecar that is not JSON, and members that do not follow each other."""
    note = b'{"license": "CC-BY-4.0", "caption": "noise", "similarity": %s}'
    apple = b"\0\5\x16\7" + bytes(60)
    members = [("._1.jpg", apple), ("1.jpg", photo(1)), ("._1.json", apple), ("1.json", note % b"NaN"),
               ("2.jpg", photo(2)), ("2.json", note.replace(b"noise", b"\\ud83d") % b"0"), ("3.jpg", photo(3)), ("3.json", b"{not"),
               ("4.jpg", photo(4)), ("5.jpg", photo(5)), ("4.json", note % b"1"), ("5.json", note % b"1")]  # fmt: skip
    if local:
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "a.tar").write_bytes(packed(members))
    else:
        hub.add("owner/set", {"a.tar": packed(members)})
    out = tmp_path / "list.jsonl"
    source = str(tmp_path / "set") if local else "hf:owner/set"
    summary = stage.run(source, str(out), list_only=True, rejects=str(tmp_path / "no.jsonl"), quiet=True)
    assert dict(summary.dropped) == {"bad_sidecar": 1, "unsorted_tar": 2} and summary.failures == 3
    listed = list(jsonl.read(str(out)))
    assert [(record["source_id"], record["license"]) for record in listed] == [
        ("a/1", "CC-BY-4.0"), ("a/2", "CC-BY-4.0"), ("a/4", ""), ("a/5", ""),
    ]  # fmt: skip
    assert [record["captions"][0]["text"] for record in listed[:2]] == ["noise", "\ufffd"]
    refused = [value for _, value in jsonl.read_values(str(tmp_path / "no.jsonl"))]
    assert [value["source_id"] for value in refused] == ["a/3", "a/4", "a/5"] and "--sort=name" in refused[1][
        "reason_detail"
    ]
    assert stage.run(str(out), str(tmp_path / "raw"), quiet=True).written == 4
    assert [reader.read_bytes(r["image"]) for r in stream.read(str(tmp_path / "raw"))] == [
        photo(n) for n in (1, 2, 4, 5)
    ]


def test_one_sample_with_names_that_differ_in_case_costs_no_other(hub: HubServer) -> None:
    members = []
    for n, note in enumerate(
        [b'{"license": "CC0"}', b'{"License": "CC0", "license": "CC-BY-NC-4.0"}', b'{"license": "CC0"}']
    ):
        members += [(f"{n}.jpg", photo(n)), (f"{n}.json", note)]
    hub.add("owner/set", {"a.tar": packed(members)})
    records = list(stage.listing("hf:owner/set"))
    assert [record.get("license") for record in records] == ["CC0-1.0", None, "CC0-1.0"]
    assert isinstance(records[1], PassedOver) and "differ in case alone" in records[1].problem.detail


@pytest.mark.parametrize("part", ["", "data", "data/train-00000-of-00001.parquet"])
def test_a_downloaded_data_set_is_read_from_its_folder_or_file(tmp_path: Path, part: str) -> None:
    """The same parquet with the same images, from a folder or file here; the list can be moved."""
    rows = [
        {"image": {"bytes": photo(n), "path": f"{n}.jpg"}, "text": f"noise {n}", "license": "CC-BY-4.0"}
        for n in range(4)
    ]
    (tmp_path / "set" / "data").mkdir(parents=True)
    (tmp_path / "set" / "data" / "train-00000-of-00001.parquet").write_bytes(parquet(rows, group=2))
    (tmp_path / "set" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    (tmp_path / "set" / ".cache").mkdir()
    (tmp_path / "lists").mkdir()
    stage.run(str(tmp_path / "set" / part), str(tmp_path / "lists" / "a.jsonl"), list_only=True, quiet=True)
    summary = stage.run(str(tmp_path / "lists" / "a.jsonl"), str(tmp_path / "raw"), quiet=True)
    assert summary.written == 4
    records = list(stream.read(str(tmp_path / "raw")))
    assert [reader.read_bytes(record["image"]) for record in records] == [photo(n) for n in range(4)]
    assert [(record["license"], record["captions"][0]["text"]) for record in records] == [
        ("CC-BY-4.0", f"noise {n}") for n in range(4)
    ]


def test_a_revision_is_read_or_said_to_be_missing(hub: HubServer) -> None:
    old = hub.add("owner/set", {"a.parquet": parquet([{"url": "https://example.org/1.jpg"}])}).sha
    (record,) = stage.listing(f"hf:owner/set@{old}")
    assert record["image_url"] == "https://example.org/1.jpg"
    with pytest.raises(CommonArtError, match="no such revision"):
        list(stage.listing(f"hf:owner/set@{'1' * 40}"))


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [({"private": True}, "is not a data set of the hub"), ({"gated": True}, "is gated"), ({}, "neither")],
)
def test_a_data_set_without_access_or_readable_files_is_refused(
    hub: HubServer, kind: dict[str, bool], sentence: str
) -> None:
    files = {"README.md": b"x"} if not kind else {"a.parquet": catalogue(0, 3)}
    hub.add("owner/set", files, **kind)
    with pytest.raises(CommonArtError, match=sentence) as caught:
        list(stage.listing("hf:owner/set"))
    assert caught.value.fix


def test_a_damaged_file_and_a_name_without_an_owner_are_refused(hub: HubServer) -> None:
    hub.add("owner/set", {"a.parquet": b"no parquet"})
    with pytest.raises(CommonArtError, match="damaged"):
        list(stage.listing("hf:owner/set"))
    with pytest.raises(UsageError, match="hf:"):
        list(stage.listing("hf:set"))
