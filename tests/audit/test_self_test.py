"""The controls with known answers: `commonart mia --self-test`, and the long form with enough negatives to say so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import Command

from commonart.core.audit import self_test
from commonart.core.errors import CommonArtError

FOUND = {
    "overfitted": {"passed": True, "verdict": "leaks", "attack": "loss", "tpr@1%fpr": {"value": 1.0}},
    "unseen": {"passed": True, "let_go": 20, "seeds": 20, "expected": 18, "intervals_with_chance": 0.96},
    "planted": {"passed": False, "verdict": "no leak found", "reason": "the strongest has p 0.4"},
}


def test_each_control_is_told_with_what_it_found():
    assert self_test.table(FOUND).splitlines() == [
        "passed  overfitted  leaks; TPR at 1 % FPR 1.000 by loss",
        "passed  unseen      a model that never saw the images: no leak found in 20 of 20, at least 18 expected; "
        "96% of the 95 % intervals hold 0.5",
        "FAILED  planted     no leak found: the strongest has p 0.4",
    ]


def test_a_control_that_fails_is_an_error(monkeypatch, capsys):
    from commonart.cli.mia import mia

    monkeypatch.setattr(self_test, "run", lambda **_: FOUND)
    with pytest.raises(CommonArtError, match="A control failed"):
        mia(self_test=True)
    said = capsys.readouterr()
    assert "FAILED  planted" in said.out and '"in":3,"out":2' in said.err


def test_a_model_is_needed_otherwise(commonart: Command):
    done = commonart("mia", "--data", "shards/")
    assert done.returncode == 2 and b"mia needs a MODEL." in done.stderr


@pytest.mark.slow  # 24 s of a processor, most of it imports and models
def test_a_signal_leaves_no_temporary_folder(tmp_path: Path):
    command = [sys.executable, "-m", "commonart.cli.main", "mia", "--self-test"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    end = time.monotonic() + 120
    while not list(tmp_path.glob("commonart-*/0010.png")) and running.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 143 and out == b"" and b"Traceback" not in err, err
    assert list(tmp_path.glob("commonart-*")) == []


@pytest.mark.slow
def test_the_command_passes(commonart: Command):
    done = commonart("mia", "--self-test")
    assert done.returncode == 0, done.stderr
    told = done.stdout.decode().splitlines()
    assert [line[:6] for line in told] == ["passed"] * 3
    assert "no leak found in 20 of 20" in told[1]


@pytest.mark.slow
def test_with_enough_negatives_the_rate_itself_is_certain():
    """Of 480 held-out scenes an interval at an FPR of 1 % has a lower end."""
    found = self_test.run(members=64, others=480, steps=900, quiet=True)
    assert all(control["passed"] for control in found.values()), self_test.table(found)
    rate = found["overfitted"]["tpr@1%fpr"]
    assert rate["value"] >= 0.95 and rate["low"] > 0.8
    assert found["unseen"]["let_go"] == 20 and found["unseen"]["intervals_with_chance"] > 0.9
