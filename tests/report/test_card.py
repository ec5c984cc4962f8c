"""The card: what its files say, that outside tools read them, that hostile names do nothing, and that it is made anew the same."""

from __future__ import annotations

import csv
import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet
import pytest
import reportable_run
from commands import Command
from huggingface_hub import DatasetCard, ModelCard
from reportable_run import BIDI, HEBREW, HOSTILE, sha256

from commonart.core.data.files import write_json
from commonart.core.licenses.parse import normalize
from commonart.core.report import attribution, card, card_tables, components, data_summary, model_card, terms
from commonart.core.report.facts import Facts, gather
from commonart.core.report.markdown import escaped, plain

SCORES = {
    "model": "runs/tiny",
    "scores": [
        {"metric": "CLIP", "lang": "ja", "value": 26.125, "low": 26.0, "high": 26.25, "n": 60, "judge": "nano", "mode": "paper",
         "model": "runs/tiny"},
        {"metric": "scenes", "lang": "en", "set": "scenes", "color": 0.5, "shape": 0.25, "background": 1.0, "place": 0.75,
         "size": 0.125, "all": 0.25, "n": 30,
         "model": "runs/tiny"},
        {"metric": "CLIP", "lang": "en", "value": 1.0, "n": 9, "judge": "nano", "mode": "paper", "model": "another"},
    ],
}  # fmt: skip
AUDIT = {"verdict": "no sign of memorisation", "reason": "no attack told members apart", "members": 21, "heldout": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    run, _ = reportable_run.make(folder)
    write_json(run / "eval.json", SCORES)
    write_json(run / "mia.json", AUDIT)
    return folder


@pytest.fixture(scope="module")
def folder(made: Path, facts: Facts) -> Path:
    card.write(facts, made / "card", certify=True)
    return made / "card"


def read(path: Path) -> Any:
    return orjson.loads(path.read_bytes())


def test_attribution_names_every_work_with_title_author_source_licence_and_changes(folder: Path) -> None:
    lines = (folder / "ATTRIBUTION").read_text("utf-8").split("\n")
    assert lines[0] == (
        "Attribution of the 21 works of tiny, in the order of its shards. / tiny の作品 21 点の帰属表示（シャードの順）。"
    )
    assert lines[2].startswith("The author of 2 works is not stated by their source. /") and lines[3] == "" == lines[-1]
    works = lines[4:-1]
    assert len(works) == 21
    assert works[0] == (
        '"work 0" by "Jane Doe". museum, https://example.org/works/0. CC-BY-2.0, https://creativecommons.org/licenses/by/2.0/. '
        "Changes: scaled and cropped from 96 x 96 to 16 x 16 pixels, encoded again as PNG. Key: k00"
    )
    assert any("by an author not stated. museum" in line for line in works)


def test_authors_with_markup_or_right_to_left_text_do_nothing(folder: Path) -> None:
    text = (folder / "ATTRIBUTION").read_text("utf-8")
    assert (
        f'by "\u2068{HEBREW}\u2069". museum' in text
        and BIDI not in text
        and r'by "\\u202eevil\\x1b[31m". museum' in text
    )
    for path in folder.rglob("*.md"):
        page = path.read_text("utf-8")
        assert "<img" not in page and "](javascript" not in page and "\u202e" not in page, path
    assert HOSTILE in text  # plain text


def test_the_table_holds_the_same_as_the_records_have_it(folder: Path) -> None:
    rows = pyarrow.parquet.read_table(folder / "attribution.parquet").to_pylist()
    assert len(rows) == 21 and list(rows[0]) == list(attribution.COLUMNS)
    assert (rows[2]["title"], rows[2]["author"], rows[3]["author"], rows[4]["author"]) == (
        HOSTILE,
        HOSTILE,
        BIDI,
        HEBREW,
    )
    assert {row["license"] for row in rows} == {"CC-BY-2.0", "CC0-1.0"} and rows[0]["shard"] == "00000.tar"


def test_the_model_card_is_valid_for_the_hub(folder: Path) -> None:
    loaded = ModelCard.load(folder / "README.md")
    data = loaded.data
    assert (data.pipeline_tag, data.library_name, data.language, data.license) == (
        "text-to-image",
        "diffusers",
        ["en", "ja"],
        None,
    )
    assert data.eval_results is not None
    found = {(each.dataset_name, each.metric_name): each.metric_value for each in data.eval_results}
    assert found == {  # what belongs to another model of eval.json is not this one's
        ("captions (ja)", "CLIP"): 26.125, ("scenes (en)", "colour right"): 0.5, ("scenes (en)", "shape right"): 0.25,
        ("scenes (en)", "background right"): 1.0, ("scenes (en)", "place right"): 0.75, ("scenes (en)", "size right"): 0.125,
        ("scenes (en)", "colour, shape, background and place right"): 0.25,
    }  # fmt: skip
    text = loaded.text
    assert "It was trained on 21 works. Licences: CC-BY-2.0 11, CC0-1.0 10. Sources: museum 21." in text
    assert "| CLIP | ja | captions | 26.12 | 26 – 26.25 |  | 60 | nano |" in text
    assert "Membership audit: **no sign of memorisation** (no attack told members apart)." in text
    assert (
        "| license-filter | 24 | 23 | license_not_allowed:CC-BY-NC-2.0 1 |" in text
        and "| train | 23 | 21 | heldout 2 |" in text
    )
    assert "- 2 of 21 works do not state their author." in text and "- 21 点のうち 2 点は作者が記されていない。" in text
    assert "- What happened before `license-filter` is not known: nothing that it read had a note." in text
    linked = {link for link in re.findall(r"\]\(([\w./]+)\)", text) if "://" not in link}
    assert linked == {*(f for f in card.files_of(folder, card.names(gather_again(folder), True)) if "/" not in f), "report.json",
                      "evidence/"} - {"README.md"}  # fmt: skip


def gather_again(folder: Path) -> Facts:
    return gather(folder.parent / "runs" / "tiny", folder.parent / "shards")


def test_the_card_names_the_switches_of_the_recipe_that_were_on(facts: Facts) -> None:
    assert facts.run is not None
    assert "switches" not in "".join(card_tables.cost(facts))
    recipe = {**facts.run["recipe"], "tread": 0.5, "tread_off": 0.0, "draws": 2, "optimizer": "Muon"}
    switched = dataclasses.replace(facts, run={**facts.run, "recipe": recipe})
    on = "draws = 2, tread = 0.5 (arXiv 2501.04765), optimizer = Muon (arXiv 2502.16982)"
    assert f"| switches of the recipe | {on} |" in card_tables.cost(switched)
    assert f"| レシピの切り替え | {on} |" in card_tables.cost(switched, ja=True)


def test_shards_alone_get_a_dataset_card(made: Path, tmp_path: Path) -> None:
    card.write(gather(None, made / "shards"), tmp_path)
    data = DatasetCard.load(tmp_path / "README.md").data
    assert (data.license, data.size_categories, data.task_categories) == (
        ["cc-by-2.0", "cc0-1.0"],
        "n<1K",
        ["text-to-image"],
    )
    assert data.configs == [{"config_name": "default", "data_files": [{"split": "train", "path": ["*.tar"]}]}]
    assert not (tmp_path / "data_summary_card.md").exists() and "FLOP" not in (tmp_path / "README.md").read_text(
        "utf-8"
    )
    assert len((tmp_path / "ATTRIBUTION").read_text("utf-8").splitlines()) == 4 + 23


def test_licences_with_their_counts_and_what_they_ask(facts: Facts) -> None:
    page = terms.render(facts)
    assert "| [CC-BY-2.0](https://creativecommons.org/licenses/by/2.0/) | 11 | name author, source and licence" in page
    assert (
        "| [CC0-1.0](https://creativecommons.org/publicdomain/zero/1.0/) | 10 | nothing: the author gave up all rights |"
        in page
    )
    assert "different licences" not in page

    def asked(name: str) -> str:
        return terms.asks(normalize(name)).english

    assert "no commercial use" in asked("CC-BY-NC-SA-4.0") and "under the same licence" in asked("CC-BY-NC-SA-4.0")
    assert asked("LicenseRef-OneOf..CC-BY-2.0..CC0-1.0") == f"{asked('CC-BY-2.0')}; and {asked('CC0-1.0')}"
    assert asked("CC-BY-2.0 OR CC0-1.0") == f"{asked('CC-BY-2.0')} or {asked('CC0-1.0')}"
    assert terms.asks(None).english.startswith("not known here") and asked("GFDL-1.2-only").startswith("not known here")


def test_every_licence_of_the_policies_is_explained() -> None:
    from commonart.core.licenses.policies import PAPER
    from commonart.core.licenses.table import known_licenses

    families = {
        license.family for license in known_licenses().values() if license.id in PAPER or license.family in PAPER
    }
    assert len(families) >= 6 and families <= terms.ASKS.keys() | {"LicenseRef-CC-BY"}


def test_components_name_what_they_were_trained_on(facts: Facts) -> None:
    page = components.render(facts)
    assert "| nano | captioner | `1234` | Apache-2.0 | free | scenes that this project's own generator draws" in page
    # What the tests call `m` is in no registry.
    assert "| m | text encoder | `r1` | not stated | not known | not disclosed | nowhere |" in page
    assert "Made outside this project: 2 of 5; with training data that are not disclosed: 2." in page


def test_the_data_summary_has_the_sections_of_the_template_and_marks_what_only_the_operator_knows(facts: Facts) -> None:
    corpuscard = pytest.importorskip("corpuscard")
    page = data_summary.render(facts)
    theirs = corpuscard.render_markdown(_summary(corpuscard, facts))

    def headings(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("#")]

    assert headings(page) == headings(theirs)
    assert "> 作品 21 点（CC-BY-2.0 11, CC0-1.0 10）、出典 museum 21、学習の計算量" in page and "10²³ FLOP" in page
    fields = [
        field
        for field in re.findall(r"^\*\*([^*\[]+?)(?::\*\*|\?\*\*)", theirs, re.MULTILINE)
        if field != "Additional comments"
    ]
    assert len(fields) >= 25
    assert [field for field in fields if field not in page] == []
    assert page.count(data_summary.OPERATOR) >= 10
    assert (
        "| Image | Less than 1 million images (21) |" in page
        and "| Text | Less than 1 billion tokens (63 words) |" in page
    )
    assert "**Latest date of data acquisition/collection for model training:** 01/2026" in page


def _summary(corpuscard: Any, facts: Facts) -> Any:
    """The same facts in the peer's schema, which checks its ranges."""
    image, text = data_summary.image_range(facts.works), data_summary.text_range(63)
    sizes = [{"modality": "image", "size_range": image, "types_of_content": "licensed images"},
             {"modality": "text", "size_range": text, "types_of_content": "their captions"}]  # fmt: skip
    return corpuscard.TrainingSummary.model_validate({
        "version": "1", "last_update": "01/01/26",
        "general_information": {
            "provider_identification": {"provider_name_and_contact": "x"},
            "model_identification": {"versioned_model_names": [facts.name], "date_of_placement_on_union_market": "x"},
            "modalities": sizes, "latest_data_collection_date": "01/2026", "continuously_trained_on_new_data": False,
        },
        "data_sources": {
            "publicly_available_datasets": {"used": False},
            "private_third_party_datasets": {
                "licensed": {"has_licensing_agreements": False}, "other_third_party": {"obtained": False},
            },
            "crawled_data": {"crawlers_used": False},
            "user_data": {"model_interaction_data_used": False, "other_product_interaction_data_used": False},
            "synthetic_data": {"used": True, "generating_models": ["nano"]}, "other_sources": {"used": False},
        },
        "data_processing_aspects": {
            "tdm_reservation_respect": {"is_code_of_practice_signatory": False}, "illegal_content_removal": {},
        },
    })  # fmt: skip


@pytest.mark.parametrize(
    ("flops", "said"),
    [
        (5e21, "0.05 of 10²³: below the threshold"),
        (1e23, "1 of 10²³: at or above the threshold"),
        (None, "are not known"),
    ],
)
def test_the_computed_flops_say_whether_a_summary_is_owed(facts: Facts, flops: float | None, said: str) -> None:
    from dataclasses import replace

    assert facts.run is not None
    run = {**facts.run, "compute": {**facts.run["compute"], "flops": flops}}
    assert said in data_summary.is_owed(replace(facts, run=run))


def test_published_sets_are_listed_with_their_share(facts: Facts) -> None:
    from dataclasses import replace

    page = data_summary.render(replace(facts, works=1000, sources={"pd12m": 980, "hf:me/mine@abc": 20}))
    assert "- pd12m: https://huggingface.co/datasets/Spawning/PD12M (980 works)" in page
    assert "not listed above:** hf:me/mine&#64;abc 20" in page
    assert data_summary.link_of("hf:me/mine@abc") == "https://huggingface.co/datasets/me/mine"


def test_evidence_has_sources_filters_code_and_hashes(made: Path, folder: Path, facts: Facts) -> None:
    def rows(name: str) -> list[list[str]]:
        return list(csv.reader((folder / "evidence" / name).read_text("utf-8").splitlines()))[1:]

    at = "2026-01-02T00:00:00Z"
    assert rows("sources.csv") == [
        ["museum", "CC-BY-2.0", "licence", "11", at, at],
        ["museum", "CC0-1.0", "dedication", "10", at, at],
    ]
    assert ["train", "0.1.0", "23", "21", "dropped", "heldout", "2"] in rows("filters.csv")
    shard = made / "shards" / "00000.tar"
    assert rows("manifests.csv")[0] == [
        "00000.tar", str(shard.stat().st_size), sha256(shard), "10", "10", sha256(shard.with_suffix(".json")),
    ]  # fmt: skip
    assert sorted(rows("captions.csv")) == [
        ["nano translated by nano", "model", "sha256:1234", "Apache-2.0", "free; of the translation: free", "ja", "21"],
        ["nano", "model", "sha256:1234", "Apache-2.0", "free", "en", "21"],
    ][::-1]  # fmt: skip
    settings = read(folder / "evidence" / "settings.json")
    assert (
        settings["run_json_sha256"] == sha256(made / "runs" / "tiny" / "run.json")
        and settings["digest"] == facts.digest
    )
    assert settings["policy"]["name"] == "paper" and settings["stages"][0]["settings"]["policy"] == "paper"
    assert "yes: all 21 works" in (folder / "evidence" / "README.md").read_text("utf-8")


def test_report_json_names_every_file_and_shard_with_its_hash(made: Path, folder: Path) -> None:
    said = read(folder / "report.json")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files - {"report.json"} == set(said["files"])
    assert all(
        about == {"bytes": (folder / n).stat().st_size, "sha256": sha256(folder / n)}
        for n, about in said["files"].items()
    )
    assert [shard["sha256"] for shard in said["shards"]] == [sha256(p) for p in sorted((made / "shards").glob("*.tar"))]
    assert str(made) not in (folder / "report.json").read_text("utf-8")


def test_the_same_facts_give_the_same_bytes(made: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "runs", tmp_path / "elsewhere")
    shutil.copytree(made / "shards", tmp_path / "moved" / "shards")
    card.write(gather(tmp_path / "elsewhere" / "tiny", tmp_path / "moved" / "shards"), tmp_path / "card", certify=True)
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "card" / path.relative_to(folder)).read_bytes(), path


def test_markup_and_direction_of_other_people() -> None:
    assert escaped("a_b *c* [x](y) <b> |") == "a_b &#42;c&#42; &#91;x&#93;(y) &#60;b&#62; &#124;"
    assert escaped("https://x.org www.x.org me@x.org") == "https:&#47;&#47;x.org www&#46;x.org me&#64;x.org"
    assert plain("two\nlines\t of  it") == "two lines of it" and plain("山田 花子") == "山田 花子"
    assert plain("أحمد") == "\u2068أحمد\u2069"


def test_the_command_writes_says_where_and_replaces_only_when_told(
    made: Path, tmp_path: Path, in_process: Command
) -> None:
    run, shards = str(made / "runs" / "tiny"), str(made / "shards")
    done = in_process("report", shards, run, "-o", "card", "-q")
    assert done.returncode == 0 and re.fullmatch(
        rb"21 works, \d+ files: card/index\.html", done.stdout.splitlines()[-1]
    )
    assert orjson.loads(done.stderr.splitlines()[-1])["out"] == 21
    assert b"warning: 2 of 21 works: author is not stated" in done.stderr
    again = in_process("report", run, shards, "-o", "card", "-q")
    assert again.returncode == 2 and b"card/report.json already exists.\nAdd --overwrite" in again.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("my own words")
    assert in_process("report", shards, "-o", "mine", "-q").returncode == 2
    assert (tmp_path / "mine" / "README.md").read_text() == "my own words"
    assert in_process("report", run, shards, "-o", "card", "--evidence", "--overwrite", "-q").returncode == 0
    assert (tmp_path / "card" / "evidence" / "sources.csv").is_file()
    # Of shards alone there is less, and nothing of the run stays.
    assert in_process("report", shards, "-o", "card", "--overwrite", "-q").returncode == 0
    assert sorted(path.name for path in (tmp_path / "card").rglob("*") if path.is_file()) == [
        "ATTRIBUTION", "COMPONENTS.md", "LICENSES.md", "README.md", "attribution.parquet", "croissant.json", "cyclonedx.json",
        "index.html", "report.json", "spdx.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere"], 1, "nowhere does not exist."),
        (["."], 2, ". is neither a run (run.json) nor a folder of shards (*.tar)."),
        (["SHARDS", "SHARDS"], 2, "report takes a run, shards, or one of each."),
        (["SHARDS", "--eval", "eval.json"], 2, "--eval belongs to a run, and none was named."),
        (["RUN", "SHARDS", "--mia", "none.json"], 1, "none.json cannot be read: No such file or directory."),
        (["RUN", "-o", "RUN", "--overwrite"], 2, "runs/tiny is a run. / Name a folder of its own"),
        (["SHARDS", "-o", "SHARDS/00000.tar"], 2, "00000.tar is a file. / Name a folder for the card"),
        (["RUN", "--verify", "card"], 2, "--verify needs the shards."),
        (["SHARDS", "--verify", "card", "--evidence"], 2, "--verify and --evidence do not go together."),
        (["SHARDS", "--verify", "card"], 1, "card/report.json cannot be read: No such file or directory."),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    made: Path, in_process: Command, arguments: list[str], code: int, said: str
) -> None:
    places = {"RUN": str(made / "runs" / "tiny"), "SHARDS": str(made / "shards")}
    done = in_process(
        "report", *(places.get(each, each.replace("SHARDS/", f"{made}/shards/")) for each in arguments), "-q"
    )
    assert (done.returncode, said.encode() in done.stderr.replace(b"\n", b" / ")) == (code, True), done.stderr


def test_what_interrupts_leaves_the_card_that_was_there(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = gather(None, made / "shards")
    card.write(facts, tmp_path / "card")
    before = {path.name: path.read_bytes() for path in (tmp_path / "card").iterdir()}
    (tmp_path / "card" / card.PART).mkdir()  # what SIGKILL left
    (tmp_path / "card" / card.PART / "evidence").write_text("half")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(card.page, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            card.write(gather(made / "runs" / "tiny", made / "shards"), tmp_path / "card")
        with pytest.raises(KeyboardInterrupt):
            card.write(facts, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert {path.name: path.read_bytes() for path in (tmp_path / "card").iterdir()} == before
    (tmp_path / "card" / card.PART).mkdir()
    card.write(facts, tmp_path / "card")
    assert {path.name: path.read_bytes() for path in (tmp_path / "card").iterdir()} == before


def test_names_of_files_stand_in_the_list_of_the_card(folder: Path) -> None:
    assert {path.name for path in card.existing(folder)} <= {*(Path(name).name for name in model_card.FILES), "README.md"} | {
        "captions.csv", "filters.csv", "manifests.csv", "settings.json", "sources.csv",
    }  # fmt: skip
