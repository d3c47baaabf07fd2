"""Runs a function in several processes of one group on this machine, forked to save the imports."""

import itertools
import multiprocessing
import os
import pickle
import socket
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import torch

from signforge.gan.distributed import process_group

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["signforge.gan.run", "torch._dynamo"])
PATIENCE = 240
"""Seconds."""
FIRST_PORT, PORTS_OF_WORKER = 20_000, 100
"""Below those that the system gives to whoever asks for any."""
_turn = itertools.count(os.getpid())


def free_port() -> int:
    """From ports of this test worker's own, so that no other takes it before it is used."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = FIRST_PORT + PORTS_OF_WORKER * (worker % 100)
    for _ in range(PORTS_OF_WORKER):
        port = first + next(_turn) % PORTS_OF_WORKER
        with socket.socket() as place, suppress(OSError):
            place.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"No port from {first} on is free.")


def in_two_processes(function: Callable[..., Any], *args: object) -> list[Any]:
    """What ``function(*args)`` returns in each, by rank. It must be importable."""
    port = free_port()
    pipes = [FORKS.Pipe(duplex=False) for _ in range(2)]
    processes = [
        FORKS.Process(target=_one, args=(rank, port, pipe[1], function, args), daemon=True)
        for rank, pipe in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    for _, far_end in pipes:
        far_end.close()
    try:
        results = []
        for rank, (near_end, _) in enumerate(pipes):
            assert near_end.poll(PATIENCE), f"process {rank} does not come to an end"
            results.append(pickle.loads(near_end.recv_bytes()))
        return results
    finally:
        for process in processes:
            process.join(10)
            process.kill()
            process.join()


def _one(
    rank: int,
    port: int,
    answer: Connection,
    function: Callable[..., Any],
    args: tuple[object, ...],
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    with process_group("cpu"):
        # Plain bytes: ``send`` would pass tensors as handles, which end with this process.
        answer.send_bytes(pickle.dumps(function(*args)))
