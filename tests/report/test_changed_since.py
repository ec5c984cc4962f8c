"""What changed since the training, or since the card: edited and damaged shards, forged scores, removed works, added files."""

from __future__ import annotations

import shutil
from pathlib import Path

import orjson
import pytest
import reportable_run
from commands import Command, call
from reportable_run import LICENSES

from commonart.core.data.files import write_json
from commonart.core.data.lookup import removal
from commonart.core.data.shards.reader import members, read_members, read_shard, read_span
from commonart.core.data.shards.writer import ShardWriter
from commonart.core.errors import CommonArtError
from commonart.core.report import card, verify
from commonart.core.report.claims import Claim
from commonart.core.report.facts import gather
from commonart.core.report.limits import limits


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    run, shards = reportable_run.make(folder)
    card.write(gather(run, shards), folder / "card", certify=True)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def check(here: Path, holds: bool | None = False, run: bool = False) -> list[str]:
    """The claims of the card that hold, do not (False), or could not be checked (None), as lines."""
    claims: list[Claim] = list(verify.check(here / "card", [here / "shards"], here / "runs" / "tiny" if run else None))
    return [f"{claim.what}: {claim.detail}" for claim in claims if claim.holds is holds]


def edited(here: Path, old: bytes = b"Jane Doe", new: bytes = b"Jane Roe", manifest: bool = False) -> Path:
    """Change a shard, which stays as large as it was; with `manifest` the hash beside it, too."""
    path = here / "shards" / "00001.tar"
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new))
    if manifest:
        beside = path.with_suffix(".json")
        write_json(beside, {**orjson.loads(beside.read_bytes()), "sha256": reportable_run.sha256(path)})
    return path


def relabel(here: Path, name: str) -> int:
    """Write a shard again with CC0 in place of CC BY; return how many works that makes free."""
    tar, count = here / "shards" / name, 0
    with ShardWriter(here / "new" / name) as writer:
        for stem, group in read_members(tar):
            data = {extension: read_span(tar, span) for extension, span in group.items()}
            record = orjson.loads(data["json"])
            if record["license"] == LICENSES[0][0]:
                record |= {"license": LICENSES[1][0], "license_url": LICENSES[1][1], "license_raw": LICENSES[1][0]}
                count += 1
            writer.add(stem, {**data, "json": orjson.dumps(record)})
    for path in (here / "new").iterdir():
        path.replace(here / "shards" / path.name)
    beside = tar.with_suffix(".json")
    write_json(beside, {**orjson.loads(beside.read_bytes()), "sha256": reportable_run.sha256(tar)})
    return count


def take_out(here: Path, key: str) -> None:
    for tar in sorted((here / "shards").glob("*.tar")):
        for record in read_shard(tar):
            if record["key"] == key:
                removal.remove(here / "shards", {tar.name: [record]}, [f"key: {key}"])


def test_a_shard_that_was_edited_gets_no_card(here: Path) -> None:
    path = edited(here)
    with pytest.raises(CommonArtError, match=r"00001\.tar was changed or damaged after it was made: 00001\.json names"):
        gather(here / "runs" / "tiny", here / "shards")
    with pytest.raises(CommonArtError, match=r"00001\.tar was changed or damaged"):
        gather(None, here / "shards")
    path.with_suffix(".json").unlink()
    with pytest.raises(CommonArtError, match="licences, authors or captions are not those of the training"):
        gather(here / "runs" / "tiny", here / "shards")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"Jane Doe", b"Jane Roe", "the counts are the same, and what they are of is not"),
        (b'"title":"work 13"', b'"title":"work 31"', "the counts are the same"),
        (b"stripes 13", b"stripes 31", "the counts are the same"),
    ],
)
def test_other_licences_authors_and_captions_than_those_of_the_training_get_no_card(
    here: Path, old: bytes, new: bytes, why: str
) -> None:
    edited(here, old, new, manifest=True)
    with pytest.raises(CommonArtError, match=f"licences, authors or captions are not those of the training: .*{why}"):
        gather(here / "runs" / "tiny", here / "shards")
    assert any(line.startswith("the digest of the licences, authors and captions of the works") for line in check(here))


def test_other_licences_are_named_with_their_counts(here: Path) -> None:
    freed = sum(relabel(here, tar.name) for tar in sorted((here / "shards").glob("*.tar"))) - 1  # one is held out
    with pytest.raises(
        CommonArtError, match=rf"licenses CC-BY-2\.0 11 then, 0 now; licenses CC0-1\.0 10 then, {10 + 11} now"
    ):
        gather(here / "runs" / "tiny", here / "shards")
    assert freed == 11 and any(line.startswith("licenses of run.json") for line in check(here))


def test_shards_that_were_written_again_get_a_card_that_holds(here: Path) -> None:
    assert call(here, "shard", "shards", "-o", "again", "--size", "16", "--format", "webp", "-q") == 0
    shutil.rmtree(here / "shards")
    (here / "again").rename(here / "shards")
    facts = gather(here / "runs" / "tiny", here / "shards")
    assert facts.rewritten
    card.write(facts, here / "card", certify=True)
    text = (here / "card" / "README.md").read_text("utf-8")
    assert "- The shards were written again since the training" in text and "- 学習後にシャードが書き直された" in text
    assert check(here) == []
    assert any("their pixels were not compared" in line for line in check(here, None))


def test_scores_audit_and_curves_are_those_of_the_run(here: Path) -> None:
    run = here / "runs" / "tiny"
    score = {"metric": "CLIP", "lang": "en", "value": 26.0, "n": 60, "judge": "nano", "mode": "paper"}
    write_json(run / "eval.json", {"scores": [score]})
    write_json(here / "forged.json", {"scores": [{**score, "value": 99.0}]})
    write_json(here / "mia.json", {"verdict": "no sign"})
    card.write(gather(run, here / "shards", here / "forged.json", here / "mia.json"), here / "card", certify=True)
    assert check(here) == [] and len(check(here, None)) == 1
    (line,) = check(here, run=True)
    assert line.startswith("evaluation of report.json is what eval.json says: ") and "says something else" in line
    (line,) = check(here, None, run=True)
    assert line.startswith("audit of report.json is what mia.json says: ") and line.endswith("mia.json is not there")
    write_json(run / "eval.json", {"scores": [{**score, "value": 99.0}]})
    write_json(run / "mia.json", {"verdict": "no sign"})
    assert check(here, run=True) == [] == check(here, None, run=True)
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 6, "loss": 0.0}\n')
    (line,) = check(here, run=True)
    assert line.startswith("curves of report.json is what metrics.jsonl says: ")


def test_a_setting_of_the_run_that_was_forged_in_report_json_is_named(here: Path) -> None:
    path = here / "card" / "report.json"
    said = orjson.loads(path.read_bytes())
    said["run"]["compute"]["flops"] = 1.0
    write_json(path, said)
    assert any(line.startswith("run of report.json is what run.json says: ") for line in check(here, run=True))


def test_a_run_is_reported_after_a_work_was_removed(here: Path) -> None:
    take_out(here, "k02")
    (line,) = [line for line in check(here) if "the shards' hashes" in line]
    assert "00000.tar has other bytes: works were removed from it on 20" in line
    facts = gather(here / "runs" / "tiny", here / "shards")
    day = removal.read_log(here / "shards")[0].at[:10]
    assert (facts.works, facts.removed, facts.removed_on, facts.rewritten) == (20, 1, (day,), False)
    said = f"1 work that it was trained on was removed from the shards since ({day})"
    assert any(each.startswith(said) and "stays in it" in each for each, _ in limits(facts))
    assert any(f"1 点が、その後シャードから削除された（{day}）" in each for _, each in limits(facts))
    card.write(facts, here / "card", certify=True)
    text = (here / "card" / "README.md").read_text("utf-8")
    assert (
        "It was trained on 21 works, of which 1 since removed are not counted here." in text and "21 点（うち" in text
    )
    assert check(here) == []
    unchecked = check(here, None, run=True)
    assert any(line.startswith("the fingerprint of the shards") and f"removed from the shards on {day}" in line
               for line in unchecked)  # fmt: skip
    held = check(here, True)
    assert "images of run.json: 21: 20 now, and 1 removed" in held
    assert "licenses of run.json: CC-BY-2.0 11, CC0-1.0 10: CC-BY-2.0 10, CC0-1.0 10 now, with 1 work removed" in held
    take_out(here, "k03")
    assert gather(here / "runs" / "tiny", here / "shards").removed == 2


def test_a_removal_raises_no_count(here: Path) -> None:
    take_out(here, "k13")
    card.write(gather(here / "runs" / "tiny", here / "shards"), here / "card", certify=True)
    assert check(here) == []
    relabel(here, "00001.tar")
    with pytest.raises(CommonArtError, match=r"licenses CC0-1\.0 10 then, 1[0-9] now"):
        gather(here / "runs" / "tiny", here / "shards")


def test_a_card_of_before_a_removal_says_so_first(here: Path) -> None:
    take_out(here, "k02")
    take_out(here, "k03")
    (first, *_) = verify.check(here / "card", [here / "shards"], None)
    day = removal.read_log(here / "shards")[0].at[:10]
    assert (
        first.what == f"2 works were removed from the shards since this card was written ({day})"
        and first.holds is None
    )
    card.write(gather(here / "runs" / "tiny", here / "shards"), here / "card", certify=True)
    assert not any(
        "since this card was written" in claim.what for claim in verify.check(here / "card", [here / "shards"], None)
    )


def test_a_removal_does_not_hide_another_change(here: Path) -> None:
    take_out(here, "k02")
    edited(here, manifest=True)
    with pytest.raises(CommonArtError, match="changed since the run was trained: 21 works then, 20 now"):
        gather(here / "runs" / "tiny", here / "shards")


def test_files_that_the_card_does_not_list_are_named(here: Path, in_process: Command) -> None:
    (here / "card" / "EXTRA.md").write_text("all rights cleared")
    (here / "card" / "evidence" / "extra.csv").write_text("a,b\n")
    (here / "card" / ".gitattributes").write_text("")
    assert "files beside the card's own, which report.json does not list: EXTRA.md; evidence/extra.csv" in check(
        here, None
    )
    done = in_process("report", "--verify", "card", "shards", "-q")
    assert (
        done.returncode == 0
        and b"not checked    files beside the card's own, which report.json does not list: EXTRA.md" in done.stdout
    )


def test_a_card_beside_its_shards_does_not_name_them(here: Path) -> None:
    shards = here / "shards"
    card.write(gather(None, shards), shards)
    assert all(claim.holds for claim in verify.check(shards, [shards], None))


def test_a_damaged_byte_is_told_from_another_version_and_the_rest_is_checked(here: Path) -> None:
    edited(here, b"CC0-1.0", b"CC0-9.9")
    wrong = check(here)
    assert any("00001.tar has other bytes than 00001.json beside it says: it was damaged, or changed by hand" in line
               for line in wrong)  # fmt: skip
    assert any(line.startswith("the works are those that the run was trained on: ") for line in wrong)
    assert any(line.startswith("ATTRIBUTION: ") for line in wrong), "what else differs is named nevertheless"
    assert not any("by the rules of this version" in line for line in wrong)


def test_a_shard_that_cannot_be_read_leaves_the_rest_unchecked(here: Path) -> None:
    path = here / "shards" / "00001.tar"
    (start, size), *_ = (span for name, span in members(path).items() if name.endswith(".json"))
    data = bytearray(path.read_bytes())
    data[start : start + size] = b"\0" * size
    path.write_bytes(data)
    wrong = check(here)
    assert (
        len(wrong) == 2 and wrong[1].startswith("the records of the shards can be read: ") and "00001.tar" in wrong[1]
    )
    assert "the counts, ATTRIBUTION and the other files: they are made of the records" in check(here, None)
