"""A real Slurm of one machine in one folder: munged, slurmctld and slurmd, no systemd, no cgroups, nothing left behind.

apt-get install slurm-wlm munge
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "scancel")
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={slurmd}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket,cred_expire=5
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=30
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,batch_sched_delay=1
SlurmdParameters=config_overrides
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=16 Gres=gpu:2 State=UNKNOWN
PartitionName=low Nodes=localhost Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=120
PartitionName=high Nodes=localhost MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""


@dataclass(slots=True)
class Cluster:
    """A running cluster; `run` calls one of Slurm's commands in it."""

    home: Path
    environ: dict[str, str]

    def run(self, *command: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environ, cwd=cwd, check=check, capture_output=True, text=True, timeout=900
        )

    def job(self, number: str) -> dict[str, str]:
        """What scontrol says of a job: JobState, Restarts, ExitCode, ..."""
        said = self.run("scontrol", "show", "job", "-o", number, cwd=self.home).stdout
        return dict(word.split("=", 1) for word in said.split() if "=" in word)

    def wait(self, number: str, *states: str, seconds: float = 900) -> dict[str, str]:
        """Until the job is in one of `states`."""
        until = time.monotonic() + seconds
        while (found := self.job(number))["JobState"] not in states:
            assert time.monotonic() < until, f"{found}\n{self.logs()}"
            time.sleep(0.5)
        return found

    def logs(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in sorted(self.home.glob("*.log")))


def missing() -> str:
    """Why there can be no cluster here; "" where there can."""
    lacking = [name for name in NEEDED if shutil.which(name, path=PATH) is None]
    return f"{lacking[0]} is not installed (apt-get install slurm-wlm munge)" if lacking else ""


@contextmanager
def cluster(home: Path) -> Iterator[Cluster]:
    """Starts the three daemons in `home`, and ends them: each by its own process, never by name."""
    for name in ("state", "spool"):
        (home / name).mkdir()
    key = home / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    config = home / "slurm.conf"
    ports = [_free_port() for _ in range(2)]
    user = pwd.getpwuid(os.getuid()).pw_name
    config.write_text(
        CONFIG.format(host=socket.gethostname(), ctld=ports[0], slurmd=ports[1], user=user, home=home).lstrip()
    )
    # Devices that are counted and given out, but not there: training runs on the CPU.
    for number in range(2):
        (home / f"gpu{number}").touch()
    (home / "gres.conf").write_text(f"Name=gpu File={home}/gpu[0-1]\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SRUN"))}
    made = Cluster(home, {**clean, "PATH": PATH, "SLURM_CONF": str(config)})
    daemons: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> None:
        with open(home / f"{command[0]}.out.log", "wb") as said:
            daemons.append(subprocess.Popen(command, env=made.environ, stdout=said, stderr=said, cwd=home))

    try:
        start("munged", "--foreground", "--force", "--socket", f"{home}/munge.socket", "--key-file", str(key),
              "--log-file", f"{home}/munged.log", "--pid-file", f"{home}/munged.pid", "--seed-file", f"{home}/seed")  # fmt: skip
        _until(lambda: (home / "munge.socket").exists(), made)
        start("slurmctld", "-D", "-c", "-f", str(config))
        start("slurmd", "-D", "-f", str(config), "-N", "localhost")
        _until(lambda: "idle" in made.run("sinfo", "-h", "-o", "%t", cwd=home, check=False).stdout, made)
        yield made
    finally:
        if len(daemons) == 3:
            made.run("scancel", "--user", user, cwd=home, check=False)
            until = time.monotonic() + 60
            while made.run("squeue", "-h", cwd=home, check=False).stdout.strip() and time.monotonic() < until:
                time.sleep(0.5)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _until(done, made: Cluster, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, made.logs()
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
