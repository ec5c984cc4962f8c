"""`report --verify`: every claim holds on a second machine, and one changed byte anywhere is named."""

from __future__ import annotations

import base64
import io
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lookup_shards
import orjson
import pytest
import reportable_run
from commands import Command
from PIL import Image

from commonart.core.data.files import write_json
from commonart.core.errors import CommonArtError
from commonart.core.report import card, equivalent, verify
from commonart.core.report.facts import ReportInputs, gather
from commonart.core.report.verify import Claim


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    run, shards = reportable_run.make(folder)
    write_json(run / "mia.json", {"verdict": "no sign of memorisation", "members": 21, "heldout": 2})
    card.write(gather(run, shards), folder / "card", certify=True)
    card.write(gather(None, shards), folder / "data")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    for name in ("card", "data", "shards"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path


def pixels(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data)))


def webp(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=60)
    return base64.b64encode(file.getvalue()).decode()


def wrong(here: Path, name: str = "card", run: Path | None = None) -> list[Claim]:
    return [claim for claim in verify.check(here / name, [here / "shards"], run) if claim.holds is False]


def named(claims: list[Claim], what: str) -> bool:
    return any(what in f"{claim.what}: {claim.detail}" for claim in claims)


def test_with_the_card_and_the_shards_alone_everything_holds(here: Path, in_process: Command) -> None:
    done = in_process("report", "--verify", "card", "shards")
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 0 and lines[-1].endswith(" claims hold, 0 do not, 1 could not be checked.")
    for line in (
        "holds          works: 21", "holds          licenses: CC-BY-2.0 11, CC0-1.0 10",
        "holds          captions by their makers: nano 21, nano of nano 21",
        "holds          ATTRIBUTION: 25 lines, each as its record says",
        "holds          attribution.parquet: 21 rows, each as its record says",
        "holds          croissant.json: 3 shards with their hashes",
        "holds          every other file is what the facts give", "holds          report.json says nothing else",
    ):  # fmt: skip
        assert line in lines
    assert [line for line in lines if line.startswith("not checked")] == [
        "not checked    what the card keeps of the run is its run.json: the run is not here: its policy, curves, cost and scores "
        "are taken as the card has them"
    ]


def test_with_the_run_nothing_is_left_unchecked(made: Path, here: Path) -> None:
    assert {claim.holds for claim in verify.check(here / "card", [here / "shards"], made / "runs" / "tiny")} == {True}
    shutil.copytree(made / "runs" / "tiny", here / "tiny")
    (here / "tiny" / "run.json").write_bytes((here / "tiny" / "run.json").read_bytes() + b"\n")
    (claim,) = wrong(here, run=here / "tiny")
    assert "run.json has another hash" in claim.detail


def test_the_grid_of_images_is_the_runs(made: Path, tmp_path: Path) -> None:
    run, grid = tmp_path / "tiny", tmp_path / "tiny" / "samples" / "step-0000006.png"
    shutil.copytree(made / "runs" / "tiny", run)
    grid.parent.mkdir(exist_ok=True)
    lookup_shards.picture(1).save(grid.with_name("step-0000002.png"))
    lookup_shards.picture(2).save(grid)
    files = card.write(gather(run, made / "shards"), tmp_path / "card")
    assert [name for name in files if name.startswith("samples/")] == ["samples/step-0000006.png"]
    again = list(verify.check(tmp_path / "card", [made / "shards"], None))
    assert not any(claim.holds is False for claim in again)  # the page, which shows it, among them
    lookup_shards.picture(3).save(grid)
    assert named(list(verify.check(tmp_path / "card", [made / "shards"], run)), "step-0000006.png has another hash")


def test_a_card_of_shards_alone_holds_too(here: Path) -> None:
    assert {claim.holds for claim in verify.check(here / "data", [here / "shards"], None)} == {True}


FILES = (
    "ATTRIBUTION", "attribution.parquet", "LICENSES.md", "COMPONENTS.md", "data_summary_card.md", "README.md", "croissant.json",
    "cyclonedx.json", "spdx.json", "index.html", "evidence/sources.csv", "evidence/settings.json",
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_named_even_where_its_hash_was_changed_with_it(here: Path, name: str) -> None:
    path = here / "card" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert named(wrong(here), f"{name} is not the file that report.json names")
    said = orjson.loads((here / "card" / "report.json").read_bytes())
    said["files"][name]["sha256"] = reportable_run.sha256(path)
    write_json(here / "card" / "report.json", said)
    claims = wrong(here)
    assert claims and named(claims, name) and not named(claims, "is not the file that report.json names")


def test_any_byte_of_report_json_counts(here: Path) -> None:
    path = here / "card" / "report.json"
    data, rng = path.read_bytes(), random.Random(0)
    places = [
        0,
        len(data) - 1,
        data.index(b'"made_with"') + 20,
        data.index(b'"num_layers"') + 3,
        *rng.sample(range(len(data)), 20),
    ]
    for place in places:
        changed = bytearray(data)
        changed[place] ^= 1 << rng.randrange(7)
        path.write_bytes(changed)
        try:
            claims = wrong(here)
        except CommonArtError as error:
            assert "report.json" in error.what
        else:
            assert named(claims, "report.json"), (place, data[place - 20 : place + 20])


def test_lines_of_attribution_are_named_by_number(here: Path) -> None:
    path = here / "card" / "ATTRIBUTION"
    lines = path.read_text("utf-8").splitlines(keepends=True)
    lines[6] = lines[6].replace("museum", "elsewhere")
    path.write_text("".join(lines[:-1]), "utf-8")
    assert named(wrong(here), "each as its record says: line 7, line 25")
    path.unlink()
    assert named(wrong(here), "ATTRIBUTION is not there") and named(wrong(here), "No such file or directory")


def test_rows_of_the_table_are_named_by_number(here: Path) -> None:
    import pyarrow.parquet

    path = here / "card" / "attribution.parquet"
    rows = pyarrow.parquet.read_table(path).to_pylist()
    rows[4]["author"] = "somebody else"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert named(wrong(here), "attribution.parquet: 21 rows, each as its record says: row 5")


def test_a_work_whose_caption_was_edited_is_named_by_its_key(here: Path) -> None:
    path = here / "shards" / "00001.tar"
    data = bytearray(path.read_bytes())
    place = data.index(b"stripes 13")
    data[place : place + 10] = b"stripes 31"
    path.write_bytes(data)
    (claim,) = (each for each in wrong(here) if each.what.startswith("attribution.parquet: 21 rows"))
    assert re.fullmatch(r"row \d+ \(k13\)", claim.detail)


def test_other_shards_are_named(here: Path) -> None:
    path = here / "shards" / "00001.tar"
    data = bytearray(path.read_bytes())
    place = data.index(b"Jane Doe")
    data[place : place + 8] = b"Jane Roe"
    path.write_bytes(data)  # as large as before, so that its manifest still seems to fit
    claims = wrong(here)
    assert named(claims, "00001.tar has other bytes") and named(claims, "authors: ") and named(claims, "ATTRIBUTION")
    path.unlink()
    claims = wrong(here)
    assert named(claims, "00001.tar is not there") and named(
        claims, "changed since the run was trained: 21 works then, 11 now"
    )
    shutil.copy(here / "shards" / "00000.tar", here / "shards" / "00003.tar")
    assert named(wrong(here, "data"), "00003.tar is not in the card")


def test_a_claim_that_the_run_made_of_its_captions_is_checked(here: Path) -> None:
    said = orjson.loads((here / "card" / "report.json").read_bytes())
    said["run"]["data"]["makers"][0]["captions"] = 20
    said["run"]["data"]["licenses"] = {"CC0-1.0": 21}
    write_json(here / "card" / "report.json", said)
    claims = wrong(here)
    assert named(claims, "captions by their makers") and named(claims, "licenses of run.json")


EMPTY = {"schema": 1, "name": "x", "evidence": True, "made_with": {}, "facts": {}, "shards": [], "files": {}}


@pytest.mark.parametrize("value", [[], {}, {"schema": 2}, {**EMPTY, "files": []}, {**EMPTY, "evidence": "yes"}])
def test_what_is_no_card_is_refused(here: Path, value: Any) -> None:
    write_json(here / "card" / "report.json", value)
    with pytest.raises(CommonArtError, match=r"report\.json does not hold"):
        wrong(here)


def test_a_hostile_report_json_breaks_nothing(here: Path) -> None:
    said = orjson.loads((here / "card" / "report.json").read_bytes())
    for change in (
        {"run": {"data": {}}}, {"run": []}, {"facts": {"works": "x"}}, {"shards": [1, {"name": 3}]}, {"curves": 5}, {"audit": []},
        {"files": {"../shards/00000.tar": {}, "/etc/passwd": {}}}, {"name": "\x1b[31m"}, {"evaluation": {"scores": [1, {}]}},
    ):  # fmt: skip
        write_json(here / "card" / "report.json", {**said, **change})
        assert wrong(here), change


def test_another_version_of_a_library_excuses_no_other_words(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card_folder = here / "card"
    made_with = orjson.loads((card_folder / "report.json").read_bytes())["made_with"]

    def rewritten(name: str, change: Callable[[str], str]) -> list[Claim]:
        """The claims about a card one of whose files another version of a library wrote, which its report.json names."""
        path = card_folder / name
        before, report = path.read_bytes(), (card_folder / "report.json").read_bytes()
        path.write_text(change(before.decode()))
        said = orjson.loads(report)
        said["files"][name] = {"bytes": path.stat().st_size, "sha256": reportable_run.sha256(path)}
        write_json(card_folder / "report.json", said)
        claims = list(verify.check(card_folder, [here / "shards"], None))
        path.write_bytes(before)
        (card_folder / "report.json").write_bytes(report)
        return claims

    def other_yaml(text: str) -> str:
        assert "\npipeline_tag: text-to-image\n" in text
        return text.replace("pipeline_tag: text-to-image", "pipeline_tag: 'text-to-image'")

    def other_drawing(text: str) -> str:
        """As matplotlib 3.9 writes the style of a text, and places it; and as another libwebp encodes an image."""
        style = re.compile(r"font-size: (\d+px); font-family: ([^;]*); text-anchor: (\w+); fill: currentColor")
        text, found = style.subn(r"fill: currentColor; font: \1 \2; text-anchor: \3", text)
        text, moved = re.subn(r'y="(\d+)\.(\d+)"', r'y="\1.9"', text)
        text, encoded = re.subn(r"(?<=data:image/webp;base64,)[^\"]+", lambda old: webp(pixels(old[0])), text)
        assert found and moved and encoded
        return text

    def first_image(data: str) -> Callable[[str], str]:
        return lambda text: re.sub(r'(?<=src=")data:[^"]*', data, text, count=1)

    def in_chart(words: str) -> Callable[[str], str]:
        return lambda text: text.replace("</svg>", f"{words}</svg>", 1)

    assert named(rewritten("README.md", other_yaml), "every other file is what the facts give: README.md")
    monkeypatch.setattr(card, "libraries", lambda: dict.fromkeys(made_with, "9"))
    for name, change in (("README.md", other_yaml), ("index.html", other_drawing)):
        assert not any(claim.holds is False for claim in rewritten(name, change)), name
    for name, change in (
        ("README.md", lambda text: text.replace("language:", "# certified: licence MIT\nlanguage:", 1)),
        ("index.html", in_chart("<p>All works are public domain</p>")),
    ):
        assert named(rewritten(name, change), f"every other file is what the facts give: {name}"), name
    same = {"README.md": equivalent.same_card, "index.html": equivalent.same_page}
    for number, (name, change) in enumerate(
        (
            ("README.md", lambda text: text + "No opt-out exists.\n"),
            ("README.md", lambda text: text.replace("language:", "languages:")),
            ("README.md", lambda text: text.replace("language:", "language: [")),
            ("index.html", lambda text: text.replace("</main>", "<p>All in writing.</p></main>")),
            ("README.md", lambda text: text.replace("language:", "language: # certified: licence MIT", 1)),
            ("README.md", lambda text: text.replace("language:", "language: &certified", 1)),
            ("README.md", lambda text: text.replace("language:", "tags:\n- certified\nlanguage:", 1)),
            ("index.html", in_chart("<foreignObject>All in writing.</foreignObject>")),
            ("index.html", in_chart('<style>main>*{display:none}body:before{content:"All works are CC0."}</style>')),
            ("index.html", in_chart("<g/>")),
            ("index.html", in_chart("<!--><p>All works are CC0.</p>-->")),
            ("index.html", lambda text: text.replace("stroke-linecap: butt}", "} main{display:none}", 1)),
            ("index.html", lambda text: text.replace("<g>", '<g onclick="alert(1)">', 1)),
            ("index.html", lambda text: re.sub(r"(<text[^>]*>)[^<]+", r"\1CC0-1.0", text, count=1)),
            ("index.html", lambda text: re.sub(r'(<text[^>]* y=")', r"\g<1>9", text, count=1)),
            ("index.html", lambda text: text.replace("fill: var(--mark)", "fill: none", 1)),
            (
                "index.html",
                first_image("data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'><text>CC0</text></svg>"),
            ),
            ("index.html", first_image("data:image/webp;base64,AAAA")),
            ("index.html", first_image(f"data:image/webp;base64,{webp(Image.new('RGB', (16, 16), 'red'))}")),
            ("index.html", first_image(f"data:image/webp;base64,{webp(Image.new('RGB', (99, 16), 'red'))}")),
        )
    ):
        text = (card_folder / name).read_text("utf-8")
        assert same[name](text, text) and not same[name](change(text), text), (number, name)


def test_a_table_has_no_columns_and_report_json_no_versions_of_their_own(here: Path) -> None:
    import pyarrow.parquet

    path = here / "card" / "attribution.parquet"
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.append_column("certified", [["yes"] * 21]), path)
    assert named(wrong(here), "attribution.parquet: 21 rows, each as its record says: it has other columns")
    said = orjson.loads((here / "data" / "report.json").read_bytes())
    for made_with in ({**said["made_with"], "certified": "1"}, {**said["made_with"], "pillow": "all works are CC0"}):
        inputs = ReportInputs(said["name"], None, [], None, None)
        kept = card.kept_sha256(inputs, made_with)
        write_json(here / "data" / "report.json", {**said, "made_with": made_with, "kept_sha256": kept})
        assert named(wrong(here, "data"), "report.json says nothing else: made_with")


def test_the_command_ends_with_1_where_something_does_not_hold(here: Path, in_process: Command) -> None:
    (here / "card" / "LICENSES.md").write_text("all free")
    done = in_process("report", "--verify", "card", "shards", "-q")
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 1 and "LICENSES.md is not the file that report.json names" in lines[0]
    assert lines[0].startswith("DOES NOT HOLD  ") and "2 do not" in lines[-1]
