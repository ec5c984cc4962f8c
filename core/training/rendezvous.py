"""How the processes of one training find each other, in loops of short calls that hear signals and have an end.

torch.distributed's rendezvous waits half an hour inside one call of C++, where Ctrl-C and SIGTERM are not heard.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from datetime import timedelta

import torch.distributed as dist

from commonart.core.errors import CommonArtError, UsageError, first_line
from commonart.core.launch import STORE
from commonart.core.slurm import PORTS

JOIN_SECONDS = 600.0  # for all processes to come: a scheduler may start them minutes apart
SHORT = timedelta(seconds=10)  # of one call
LATER = timedelta(minutes=30)  # torch.distributed's default, once all are there
NEEDED = ("RANK", "LOCAL_RANK", "MASTER_ADDR")
DEFAULT_PORT = "29500"  # torchrun's


def init_process_group(backend: str, size: int) -> None:
    """Make torch.distributed's default group of `size` processes, as the environment describes it.

    Raises UsageError for a missing variable, and CommonArtError where the processes do not find each other.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun's agents have met already, and hold the store
        dist.init_process_group(backend)
        return
    rank = int(os.environ.get("RANK", "-1"))
    store = dist.FileStore(os.environ[STORE], size) if STORE in os.environ else _tcp_store(rank, size)
    _wait_for_all(store, size)
    store.set_timeout(LATER)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)


def _tcp_store(rank: int, size: int) -> dist.Store:
    if missing := [name for name in NEEDED if name not in os.environ]:
        raise UsageError(
            f"WORLD_SIZE is {size}, but not set: {', '.join(missing)}.",
            "Start the processes with --gpus, torchrun or srun, or unset WORLD_SIZE.",
        )
    host = os.environ["MASTER_ADDR"]
    ports = [int(port) for port in os.environ.get(PORTS, os.environ.get("MASTER_PORT", DEFAULT_PORT)).split()]
    try:
        socket.getaddrinfo(host, ports[0])
    except OSError as error:
        raise CommonArtError(
            f"MASTER_ADDR={host} cannot be resolved: {error.strerror}.",
            "Set it to a name or address of the first process's machine that every machine knows.",
        ) from None
    # Whoever listens on a port may be another training: only one that says the same is ours.
    token = f"{os.environ.get('SLURM_JOB_ID', '')}.{os.environ.get('SLURM_STEP_ID', '')} of {size}".encode()
    return _listen(host, ports, size, token) if rank == 0 else _connect(host, ports, size, token)


def _listen(host: str, ports: Sequence[int], size: int, token: bytes) -> dist.Store:
    for port in ports:
        try:
            store = dist.TCPStore(host, port, size, is_master=True, wait_for_workers=False, timeout=SHORT)
        except dist.DistNetworkError as error:
            if "EADDRINUSE" in str(error) or "in use" in str(error):
                continue
            raise CommonArtError(
                f"The first training process cannot be reached at MASTER_ADDR={host}: {first_line(error)}.",
                "Set MASTER_ADDR to a name or address of the machine that runs RANK 0.",
            ) from error
        store.set("commonart", token.decode())
        return store
    raise CommonArtError(
        f"Port {' and '.join(map(str, ports))} of {host} is in use, perhaps by another training.",
        "Set MASTER_PORT to a free port, the same for all processes.",
    )


def _connect(host: str, ports: Sequence[int], size: int, token: bytes) -> dist.Store:
    deadline = time.monotonic() + JOIN_SECONDS
    while time.monotonic() < deadline:
        for port in ports:
            try:
                socket.create_connection((host, port), timeout=SHORT.total_seconds()).close()
                store = dist.TCPStore(host, port, size, is_master=False, wait_for_workers=False, timeout=SHORT)
                if store.get("commonart") == token:
                    return store
            except (OSError, RuntimeError):  # nobody listens yet, or somebody else does
                continue
        time.sleep(0.2)
    raise CommonArtError(
        f"The first training process did not answer at {host}, port {' or '.join(map(str, ports))}, for {JOIN_SECONDS:.0f} s.",
        "See why it did not start, and whether a firewall stands between the machines.",
    )


def _wait_for_all(store: dist.Store, size: int) -> None:
    deadline = time.monotonic() + JOIN_SECONDS
    store.add("arrived", 1)
    while (arrived := store.add("arrived", 0)) < size:
        if time.monotonic() > deadline:
            raise CommonArtError(
                f"{arrived} of {size} training processes came within {JOIN_SECONDS:.0f} s.",
                "See why the others did not start, or make WORLD_SIZE their number.",
            )
        time.sleep(0.1)
