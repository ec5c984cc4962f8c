"""The file of votes: whole lines, nothing lost, nothing doubled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from commonart.core.errors import CommonArtError, SchemaError
from commonart.core.voting.votes import VoteFile, read_votes


def vote(voter: str, comparison: str, choice: str = "left", study: str = "s1", **more: Any) -> dict[str, Any]:
    return {
        "study": study, "voter": voter, "comparison": comparison, "prompt": "赤い丸", "left": "a", "right": "b",
        "vote": choice, "check": False, **more,
    }  # fmt: skip


def test_a_voter_goes_on_where_they_stopped_and_answers_once(tmp_path):
    path = str(tmp_path / "votes.jsonl")
    file = VoteFile(path, "s1")
    assert file.add(vote("ann", "c1")) and file.add(vote("bob", "c1")) and file.add(vote("ann", "c2"))
    assert not file.add(vote("ann", "c1", "right"))
    file.close()
    again = VoteFile(path, "s1")
    assert again.answered("ann") == {"c1", "c2"} and again.answered("bob") == {"c1"} and again.answered("eve") == set()
    assert not again.add(vote("bob", "c1", "right")) and again.add(vote("bob", "c2"))
    again.close()
    assert [(v["voter"], v["comparison"], v["vote"]) for v in read_votes(path)] == [
        ("ann", "c1", "left"), ("bob", "c1", "left"), ("ann", "c2", "left"), ("bob", "c2", "left"),
    ]  # fmt: skip


def test_two_servers_on_one_file_double_nothing(tmp_path):
    path = str(tmp_path / "votes.jsonl")
    one, other = VoteFile(path, "s1"), VoteFile(path, "s1")
    taken: list[bool] = []

    def cast(file: VoteFile) -> None:
        taken.extend([file.add(vote(voter, f"c{i}")) for i in range(40) for voter in ("ann", "bob")])

    threads = [threading.Thread(target=cast, args=(file,)) for file in (one, other, one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = Path(path).read_text().splitlines()
    assert len(taken) == 320 and sum(taken) == len(lines) == 80
    assert len({(v["voter"], v["comparison"]) for v in map(json.loads, lines)}) == 80


WRITER = """
import sys
from commonart.core.voting.votes import VoteFile
from tests.voting.test_votes import vote
file = VoteFile(sys.argv[1], "s1")
for number in range(100000):
    if file.add(vote(sys.argv[2], f"c{number}")):
        print(number, flush=True)
"""


def test_a_kill_loses_no_vote_that_was_acknowledged_and_leaves_whole_lines(tmp_path):
    path = str(tmp_path / "votes.jsonl")
    acknowledged = {"ann": 0, "bob": 0}
    for _ in range(3):
        processes = {
            name: subprocess.Popen([sys.executable, "-c", WRITER, path, name], stdout=subprocess.PIPE, text=True)
            for name in acknowledged
        }
        for name, process in processes.items():
            assert process.stdout is not None
            for _ in range(30):
                acknowledged[name] = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            acknowledged[name] = max([acknowledged[name], *map(int, process.stdout.read().split())])
            process.wait()
    found = read_votes(path)
    for name, last in acknowledged.items():
        numbers = [int(v["comparison"][1:]) for v in found if v["voter"] == name]
        assert numbers == list(range(len(numbers))) and len(numbers) >= last + 1 >= 90


def test_a_line_that_was_cut_off_is_removed_and_asked_again(tmp_path, capsys):
    path = tmp_path / "votes.jsonl"
    whole = json.dumps(vote("ann", "c1"), separators=(",", ":")) + "\n"
    for torn in ('{"stu', whole[: len(whole) // 2], whole[:-2]):
        path.write_text(whole + torn)
        assert len(read_votes(str(path))) == 1 and "cut off" in capsys.readouterr().err
        file = VoteFile(str(path), "s1")
        assert file.answered("ann") == {"c1"} and file.add(vote("bob", "c1"))
        file.close()
        assert "cut off" in capsys.readouterr().err and len(path.read_text().splitlines()) == 2
        assert len(read_votes(str(path))) == 2
    path.write_text(whole.rstrip())  # an editor's last line
    file = VoteFile(str(path), "s1")
    assert file.add(vote("bob", "c1"))
    file.close()
    assert [v["voter"] for v in read_votes(str(path))] == ["ann", "bob"]


def test_a_full_disk_is_a_sentence_and_leaves_no_half_a_line(tmp_path, monkeypatch):
    path = tmp_path / "votes.jsonl"
    file = VoteFile(str(path), "s1")
    assert file.add(vote("ann", "c1"))
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:20]))
    with pytest.raises(CommonArtError, match=r"The vote was not saved: .*the disk is full"):
        file.add(vote("ann", "c2"))
    monkeypatch.undo()
    assert len(path.read_text().splitlines()) == 1 and file.add(vote("ann", "c2"))
    file.close()
    assert len(read_votes(str(path))) == 2


def test_votes_of_two_studies_are_told_apart(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_text("".join(json.dumps(vote("ann", "c1", study=study)) + "\n" for study in ("s1", "s2")))
    with pytest.raises(CommonArtError, match="holds votes of 2 studies, whose images differ: s1, s2") as error:
        read_votes(str(path))
    assert 'grep \'"study":"s1"\'' in error.value.fix
    with pytest.raises(CommonArtError, match="holds votes of another study"):
        VoteFile(str(path), "s1")


def test_other_files_are_refused_and_left_as_they_are(tmp_path):
    for text, problem in (
        ("hello", "is not a vote"), ("hello\n", "not valid JSON"), ('{"study":"s1"}\n', "field 'voter' must be a text"),
        ("[]\n", "is not a vote"), (json.dumps(vote("ann", "c1", "maybe")) + "\n", "must be one of left, right"),
        (json.dumps(vote("ann", "c1", check=1)) + "\n", "must be true or false"),
    ):  # fmt: skip
        path = tmp_path / "notes.txt"
        path.write_text(text)
        with pytest.raises(SchemaError, match=problem):
            VoteFile(str(path), "s1")
        assert path.read_text() == text
    for path in ("/dev/null", str(tmp_path)):
        with pytest.raises(CommonArtError, match="is not a file that keeps votes|Is a directory"):
            VoteFile(path, "s1")
    (tmp_path / "empty").write_text("")
    with pytest.raises(CommonArtError, match="holds no votes"):
        read_votes(str(tmp_path / "empty"))
    with pytest.raises(CommonArtError, match="cannot be read"):
        read_votes(str(tmp_path / "none"))
