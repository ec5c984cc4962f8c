"""Images a second of fetch beside img2dataset, from one local server: `python tests/benchmarks/fetch.py`.

The same list of URLs of 640 x 480 JPEGs, two pieces of work, both programs in turn, each round: original bytes, and a
centre crop of 256 pixels into WebDataset (`fetch`, then `shard`). nginx serves (Debian's); img2dataset runs where
IMG2DATASET names its command or it is on the PATH (`uv tool install img2dataset`). Beside seconds by the clock, which other
work on the machine stretches, stand CPU seconds and the largest resident memory of the program's processes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

DIFFERENT = 100  # pictures; the list goes round them
SIZE = (640, 480)
CONF = """daemon off; worker_processes 1; pid {at}/pid; error_log {at}/log; events {{ worker_connections 1024; }}
http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000; types {{ image/jpeg jpg; }}
client_body_temp_path {at}/1; proxy_temp_path {at}/2; fastcgi_temp_path {at}/3; uwsgi_temp_path {at}/4;
scgi_temp_path {at}/5; server {{ listen 127.0.0.1:{port}; root {at}/site; }} }}"""


def photograph(rng: np.random.Generator) -> bytes:
    """Noise of five scales, about as hard to compress as a photograph."""
    total = np.full((SIZE[1], SIZE[0], 3), 128.0, np.float32)
    for across, strength in ((4, 60), (16, 60), (64, 50), (160, 40), (640, 8)):
        noise = rng.normal(0, strength, (across * 3 // 4, across, 3)).astype(np.float32)
        layers = [Image.fromarray(noise[:, :, c]).resize(SIZE, Image.Resampling.BICUBIC) for c in range(3)]
        total += np.stack([np.asarray(layer) for layer in layers], -1)
    out = io.BytesIO()
    Image.fromarray(np.clip(total, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
    return out.getvalue()


def memory(pids: set[int]) -> int:
    """Resident bytes of these processes and their children."""
    found, total = set(pids), 0
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    for pid in found:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
        except OSError:
            continue
    return total


def timed(commands: list[list[str]], folder: Path) -> dict[str, float]:
    """Seconds, CPU seconds and the peak of resident memory (all processes together) of commands run one after another."""
    before, started, peak = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), 0
    env = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "NO_ALBUMENTATIONS_UPDATE": "1"}
    for command in commands:
        with (
            open(folder / "said", "ab") as said,
            subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, env=env) as run,
        ):
            done = threading.Event()

            def watch(pid: int = run.pid, done: threading.Event = done) -> None:
                nonlocal peak
                while not done.wait(0.1):
                    peak = max(peak, memory({pid}))

            watcher = threading.Thread(target=watch)
            watcher.start()
            code = run.wait()
            done.set()
            watcher.join()
            if code:
                sys.exit(f"{' '.join(command)} failed:\n{(folder / 'said').read_text()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.monotonic() - started, "cpu_seconds": cpu, "megabytes": peak / 1e6}


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-n", type=int, default=2000, help="URLs")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    other = os.environ.get("IMG2DATASET") or shutil.which("img2dataset")
    if other is None:
        print("img2dataset is not here: only fetch is measured.", file=sys.stderr)
    ours = [sys.executable, "-m", "commonart.cli.main"]
    with tempfile.TemporaryDirectory() as name:
        at = Path(name)
        at.chmod(0o755)
        (at / "site").mkdir()
        rng = np.random.default_rng(0)
        for n in range(DIFFERENT):
            (at / "site" / f"{n}.jpg").write_bytes(photograph(rng))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        (at / "conf").write_text(CONF.format(at=at, port=port))
        urls = (f"http://127.0.0.1:{port}/{n % DIFFERENT}.jpg?n={n}" for n in range(given.n))
        (at / "list.csv").write_text("url,license\n" + "".join(f"{url},CC0\n" for url in urls))
        server = subprocess.Popen(["nginx", "-c", str(at / "conf")], stderr=subprocess.DEVNULL)
        try:
            fetch = [*ours, "fetch", "list.csv", "-q", "--allow-private", "-o", "raw"]
            shard = [*ours, "shard", "raw", "-q", "--size", "256", "--format", "jpg", "-o", "cut"]
            area = [*shard, "--resample", "area"]  # img2dataset's way of making smaller; ours is Lanczos
            work = {"fetch, original bytes": [fetch], "fetch, then shard to 256": [fetch, shard],
                    "fetch, then shard to 256 by area": [fetch, area]}  # fmt: skip
            if other:
                theirs = [other, "--url_list", "list.csv", "--input_format", "csv", "--url_col", "url", "--output_format",
                          "webdataset", "--processes_count", "2", "--thread_count", "32", "--number_sample_per_shard", "1000",
                          "--output_folder", str(at / "theirs")]  # fmt: skip
                bytes_only = ["--resize_mode", "no", "--disable_all_reencoding", "True"]
                work["img2dataset, original bytes"] = [[*theirs, *bytes_only]]
                work["img2dataset, centre crop 256"] = [
                    [*theirs, "--image_size", "256", "--resize_mode", "center_crop"]
                ]
            runs: dict[str, list[dict[str, float]]] = {what: [] for what in work}
            for _ in range(given.rounds):
                for what, commands in work.items():
                    for made in ("raw", "cut", "theirs"):
                        shutil.rmtree(at / made, ignore_errors=True)
                    runs[what].append(timed(commands, at))
                    print(what, {k: round(v, 1) for k, v in runs[what][-1].items()}, file=sys.stderr)
        finally:
            server.terminate()
            server.wait()
    median = {
        what: {
            "images_per_second": round(given.n / statistics.median(run["seconds"] for run in all), 1),
            "cpu_ms_per_image": round(statistics.median(run["cpu_seconds"] for run in all) / given.n * 1000, 2),
            "megabytes": round(statistics.median(run["megabytes"] for run in all)),
        }
        for what, all in runs.items()
    }
    found: dict[str, object] = {
        "benchmark": "tests/benchmarks/fetch.py",
        "images": given.n,
        "rounds": given.rounds,
        "median": median,
    }
    times: dict[str, dict[str, float]] = {}
    for mine, its in (("fetch, original bytes", "img2dataset, original bytes"),
                      ("fetch, then shard to 256", "img2dataset, centre crop 256"),
                      ("fetch, then shard to 256 by area", "img2dataset, centre crop 256")):  # fmt: skip
        if its in median:
            clock = statistics.median(b["seconds"] / a["seconds"] for a, b in zip(runs[mine], runs[its], strict=True))
            cpu = median[its]["cpu_ms_per_image"] / median[mine]["cpu_ms_per_image"]
            times[mine] = {"by_the_clock": round(clock, 2), "by_cpu": round(cpu, 2)}
    found |= {
        "times_img2dataset": times,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    found["versions"] = _versions(other)
    found["date"] = time.strftime("%Y-%m-%d")
    print(json.dumps(found))


def _versions(other: str | None) -> dict[str, str]:
    import pycurl

    said = {"pycurl": pycurl.version.split()[0], "libcurl": pycurl.version_info()[1]}
    said["nginx"] = (
        subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=False).stderr.strip().rpartition("/")[2]
    )
    if other:
        python = Path(other).resolve().parent / "python"
        ask = [str(python), "-c", "import importlib.metadata as m; print(m.version('img2dataset'))"]
        said["img2dataset"] = subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip()
    return said


if __name__ == "__main__":
    main()
