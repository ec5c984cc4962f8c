"""The paper's data, end to end: its four sources in the layouts that they have in public, from the hub to captioned shards.

fetch NAME --list | license-filter --policy paper | fetch - -o raw/NAME
caption --model nano | translate --to ja --model nano | shard
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import HubServer
from huggingface_hub import HfFileSystem
from PIL import Image
from web_server import Site, answer

from commonart.cli.main import invoke
from commonart.core.data import jsonl, stream
from commonart.core.nano import scenes

COUNT = 50
BY = "https://creativecommons.org/licenses/by/2.0/"
BY_NC = "https://creativecommons.org/licenses/by-nc/2.0/"


def parquet(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=16)
    return out.getvalue()


def image(seed: int) -> bytes:
    """A scene, since the embedded captioner has seen nothing else."""
    out = io.BytesIO()
    scene = Image.fromarray(scenes.render(scenes.random_scene(np.random.default_rng(seed)), 128))
    scene.resize((80, 72)).save(out, "JPEG", quality=95)
    return out.getvalue()


def commoncatalog(n: int) -> dict[str, Any]:
    """Every tenth is under another licence than the repository's name says, every twenty-fifth contradicts itself."""
    name, url = ("Attribution License", BY) if n % 10 else ("Attribution-NonCommercial License", BY_NC)
    return {
        "jpg": image(n), "blip2_caption": f"a photograph {n}", "caption": f"tags {n}", "licensename": name,
        "licenseurl": url if n % 25 != 1 else BY_NC, "width": 80, "height": 72, "photoid": 7_000_000 + n, "uid": "1@N00",
        "unickname": "Ada", "title": f"no. {n}", "usertags": "home", "latitude": 35.6, "longitude": 139.7,
        "pageurl": f"https://www.flickr.com/photos/ada/{7_000_000 + n}/", "downloadurl": "https://live.staticflickr.com/x.jpg",
        "key": f"{n:09d}", "status": "success", "exif": "{}",
    }  # fmt: skip


def megalith(n: int, site: Site) -> dict[str, Any]:
    """Of the last four the large file is gone, and of two of these the small one, too."""
    large, small = f"/{n}_o.jpg", f"/{n}_b.jpg"
    for path, gone in ((large, n >= COUNT - 4), (small, n >= COUNT - 2)):
        if gone:
            site.pages[path] = lambda handler: answer(handler, 410, b"")
        else:
            site.image(path, image(1000 + n))
    return {
        "url": site.url(small),
        "url_highres": site.url(large),
        "url_source": f"https://www.flickr.com/photos/b/{51_000_000 + n}",
    }


def artbench(n: int) -> dict[str, Any]:
    return {"image": {"bytes": image(2000 + n), "path": f"{n}.jpg"}, "captions": [f"a painting {n}", "oil on canvas"],
            "artist": "Turner", "url": f"https://www.wikiart.org/en/turner/{n}"}  # fmt: skip


def smithsonian(n: int) -> dict[str, Any]:
    """One row has lost its image."""
    return {"image": {"bytes": image(3000 + n) if n != 7 else None, "path": None}, "url_source": f"https://www.si.edu/object/{n}",
            "caption": f"a vase {n}", "width": 80, "height": 72}  # fmt: skip


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with HubServer() as hub, Site() as site:
        hub.take_over(monkeypatch, tmp_path)
        monkeypatch.setattr("huggingface_hub.hf_file_system.constants.ENDPOINT", hub.url)
        HfFileSystem.clear_instance_cache()
        numbers = range(COUNT)
        hub.add("common-canvas/commoncatalog-cc-by", {"a.parquet": parquet([commoncatalog(n) for n in numbers])})
        hub.add("madebyollin/megalith-10m", {"a.parquet": parquet([megalith(n, site) for n in numbers])})
        hub.add("alfredplpl/artbench-pd-256x256", {"data/train.parquet": parquet([artbench(n) for n in numbers])})
        hub.add("aipicasso/soa-full-florence2", {"data/0.parquet": parquet([smithsonian(n) for n in numbers])})
        yield


# listed, and what the paper's policy lets through; and of that, what arrives
EXPECTED = {
    "commoncatalog-cc-by": (50, {"license_not_allowed:CC-BY-NC-2.0": 5, "license_conflict": 2}, 43, {}),
    "megalith-10m": (50, {}, 50, {"http_410": 2}),
    "artbench-pd": (50, {}, 50, {}),
    "smithsonian-oa": (50, {}, 50, {"unreadable": 1}),
}  # fmt: skip


@pytest.mark.usefixtures("sources")
def test_four_sources_from_the_hub_to_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> dict[str, Any]:
        """A command, and the summary that it prints."""
        assert invoke(arguments) == 0, capfd.readouterr().err
        summary: dict[str, Any] = orjson.loads(capfd.readouterr().err.splitlines()[-1])
        return summary

    for name, (listed, refused, allowed, lost) in EXPECTED.items():
        assert run("fetch", name, "--list", "-o", f"{name}.jsonl")["out"] == listed
        summary = run("license-filter", f"{name}.jsonl", "--policy", "paper", "-o", f"{name}-kept.jsonl")
        assert (summary["in"], summary["out"], summary["dropped"]) == (listed, allowed, refused), name
        strict = run("license-filter", f"{name}.jsonl", "-o", f"{name}-strict.jsonl")
        assert strict["out"] == (0 if name == "megalith-10m" else allowed)
        summary = run("fetch", f"{name}-kept.jsonl", "--allow-private", "-o", f"raw/{name}")
        assert (summary["out"], summary["dropped"]) == (allowed - sum(lost.values()), lost), name
        run("caption", f"raw/{name}", "--model", "nano", "-o", f"{name}-captioned.jsonl")
        ja = ("translate", f"{name}-captioned.jsonl", "--to", "ja", "--model", "nano", "-o", f"{name}-ja.jsonl")
        run(*ja, "--max-failures", "1")  # it loses the numbers of captions that are not of scenes
        summary = run("shard", f"{name}-ja.jsonl", "-o", f"shards/{name}", "--size", "64")
        assert summary["out"] == allowed - sum(lost.values()), name

    records = {name: list(stream.read(f"shards/{name}")) for name in EXPECTED}
    assert {name: len(each) for name, each in records.items()} == {
        "commoncatalog-cc-by": 43, "megalith-10m": 48, "artbench-pd": 50, "smithsonian-oa": 49,
    }  # fmt: skip
    bases = {name: Counter(record["license_basis"] for record in each) for name, each in records.items()}
    assert bases == {
        "commoncatalog-cc-by": {"licence": 43}, "megalith-10m": {"set": 48}, "artbench-pd": {"set": 50},
        "smithsonian-oa": {"set": 49},
    }  # fmt: skip
    for name, each in records.items():
        assert all(any(caption["model"] == "nano" for caption in record["captions"]) for record in each), name
        # The nano translator knows scenes alone, and what it makes of noise may be nothing.
        translated = sum(any(caption["lang"] == "ja" for caption in record["captions"]) for record in each)
        assert translated > len(each) / 2, name
        assert not any({"latitude", "usertags"} & record.keys() for record in each)
    assert {record["source_id"] for record in records["megalith-10m"]} == {
        str(51_000_000 + n) for n in range(COUNT - 2)
    }
    fell_back = [record["image_url"] for record in records["megalith-10m"] if record["image_url"].endswith("_b.jpg")]
    assert len(fell_back) == 2
    assert len(list(jsonl.read("commoncatalog-cc-by-kept.jsonl"))) == 43
