import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from commonart.core.errors import CommonArtError
from commonart.core.training import checkpoint


def _write(folder):
    (folder / "transformer").mkdir()
    (folder / "transformer" / "weights.safetensors").write_bytes(os.urandom(1000))
    (folder / "optimizer.safetensors").write_bytes(b"o" * 10)


def test_newest_of_several_and_only_the_last_are_kept(tmp_path):
    for step in (1, 2, 10, 100):
        checkpoint.save(tmp_path, step, _write, {"seen": step}, keep=3)
    found = checkpoint.newest(tmp_path)
    assert (found.step, found.values) == (100, {"seen": 100})
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "step-0000002",
        "step-0000010",
        "step-0000100",
    ]


def test_one_that_was_just_saved_stays_where_later_ones_are_damaged(tmp_path):
    for step in (10, 20, 30):
        (checkpoint.save(tmp_path, step, _write, {}) / "state.json").write_bytes(b"{}")
    with pytest.raises(CommonArtError, match="Every checkpoint in .* is damaged"):
        checkpoint.newest(tmp_path)
    for step in (5, 6, 7):
        checkpoint.save(tmp_path, step, _write, {}, keep=1)
    assert checkpoint.newest(tmp_path).step == 7
    assert sorted(p.name[-2:] for p in (tmp_path / "checkpoints").iterdir()) == ["07", "10", "20", "30"]
    checkpoint.save(tmp_path, 40, _write, {}, keep=1)
    assert [p.name[-2:] for p in (tmp_path / "checkpoints").iterdir()] == ["40"]


def test_no_run_has_no_checkpoint(tmp_path):
    assert checkpoint.newest(tmp_path / "nothing") is None


def test_weights_are_the_average_where_there_is_one(tmp_path):
    checkpoint.save(tmp_path, 1, _write, {})
    assert checkpoint.newest(tmp_path).weights.name == "transformer"
    checkpoint.save(tmp_path, 2, lambda folder: (_write(folder), (folder / "ema").mkdir()), {})
    assert checkpoint.newest(tmp_path).weights.name == "ema"


@pytest.mark.parametrize("harm", ["flip", "cut", "missing", "state", "value", "empty"])
def test_a_damaged_checkpoint_is_named_and_skipped(tmp_path, harm):
    checkpoint.save(tmp_path, 1, _write, {"rate": 1})
    bad = checkpoint.save(tmp_path, 2, _write, {"rate": 1})
    weights, state = bad / "transformer" / "weights.safetensors", bad / "state.json"
    if harm == "flip":
        data = bytearray(weights.read_bytes())
        data[500] ^= 1
        weights.write_bytes(data)
    elif harm == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif harm == "missing":
        weights.unlink()
    elif harm == "state":
        state.write_bytes(state.read_bytes()[:-20])
    elif harm == "value":
        state.write_bytes(state.read_bytes().replace(b'"rate": 1', b'"rate": 2'))
    else:
        state.write_bytes(b"")
    warnings = []
    assert checkpoint.newest(tmp_path, warnings.append).step == 1
    assert len(warnings) == 1 and "step-0000002 is damaged" in warnings[0]


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path):
    checkpoint.save(tmp_path, 1, _write, {})

    def full(folder):
        _write(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CommonArtError, match=r"No space left on device.*older ones are kept") as caught:
        checkpoint.save(tmp_path, 2, full, {})
    assert "Free some space" in caught.value.fix
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-0000001"]


def test_a_damaged_one_of_the_same_step_is_replaced(tmp_path):
    (checkpoint.save(tmp_path, 1, _write, {}) / "state.json").unlink()
    checkpoint.save(tmp_path, 1, _write, {"second": True})
    assert checkpoint.newest(tmp_path).values == {"second": True}


def test_kill_at_any_moment_leaves_a_good_checkpoint(tmp_path):
    code = f"""
import os
from commonart.core.training import checkpoint
def write(folder):
    (folder / "transformer").mkdir()
    (folder / "transformer" / "w.safetensors").write_bytes(os.urandom(200_000))
step = checkpoint.newest({str(tmp_path)!r}).step if checkpoint.newest({str(tmp_path)!r}) else 0
print("go", flush=True)
while True:
    step += 1
    checkpoint.save({str(tmp_path)!r}, step, write, {{}}, keep=2)
"""
    last = 0
    for turn in range(6):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(0.2 + 0.037 * turn)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        warnings = []
        found = checkpoint.newest(tmp_path, warnings.append)
        assert warnings == [] and found is not None and found.step >= last
        last = found.step
    assert last > 2
