"""run_on_ray: each classifier of a benchmark as one Ray task, on this machine or a cluster.

Data and generator are put into Ray's object store once; Ray repeats the task of a worker that
died. Which cluster is Ray's own ``RAY_ADDRESS``; without it Ray is started on this machine.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from signforge import SignforgeError
from signforge.benchmark.runner import Job, JobResult, Work

CPUS = "SIGNFORGE_RAY_CPUS"
GPUS = "SIGNFORGE_RAY_GPUS"
MAX_RETRIES = 3


def run_on_ray(jobs: Sequence[Job], work: Work) -> Iterator[JobResult]:
    """The executor ``ray``: yields results in the order in which the tasks end.

    Each task has ``SIGNFORGE_RAY_CPUS`` cores (default 1), which is its number of torch threads
    too, and ``SIGNFORGE_RAY_GPUS`` of a GPU (default 0, may be a fraction).

    Raises SignforgeError for a variable that is no such number, for more cores or GPUs than the
    cluster has, and where a task died more than ``MAX_RETRIES`` times; and what a job raises.
    """
    cpus, gpus = int(_number(CPUS, "1", whole=True)), _number(GPUS, "0", whole=False)
    if not jobs:
        return
    with _cluster():
        _require_room({"CPU": cpus, "GPU": gpus})
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=MAX_RETRIES)(_do)
        shared = ray.put(work)
        waiting = {task.remote(job, shared, cpus): job for job in jobs}
        try:
            while waiting:
                (ready,), _ = ray.wait(list(waiting), num_returns=1)
                yield _result(ready, waiting.pop(ready))
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)


def _do(job: Job, work: Work, threads: int) -> JobResult:
    torch.set_num_threads(threads)
    return work(job)


def _result(reference: Any, job: Job) -> JobResult:
    try:
        result: JobResult = ray.get(reference)
    except RayTaskError as error:
        # Ray's own error holds the worker's traceback as text; the job's error is one sentence.
        raise error.cause or error from error
    except RayError as error:
        raise SignforgeError(
            f"Ray gave up on {job.arm}, seed {job.seed} ({type(error).__name__}); the same command "
            "goes on from the rows that are finished."
        ) from error
    return result


@contextmanager
def _cluster() -> Iterator[None]:
    """Ray as it runs already, or connected for this block alone."""
    if ray.is_initialized():
        yield
        return
    # What workers print must not get into the results on stdout.
    ray.init(log_to_driver=False, logging_level="warning")
    try:
        yield
    finally:
        ray.shutdown()


def _require_room(asked: dict[str, float]) -> None:
    """Ray would wait for ever for what no cluster of this size has."""
    there = ray.cluster_resources()
    for name, amount in asked.items():
        if amount > there.get(name, 0):
            raise SignforgeError(
                f"SIGNFORGE_RAY_{name}S asks for {amount:g} in each task and the Ray cluster has "
                f"{there.get(name, 0):g}; ask for less."
            )


def _number(variable: str, default: str, *, whole: bool) -> float:
    text = os.environ.get(variable, default)
    try:
        number = float(int(text) if whole else float(text))
    except ValueError:
        number = -1.0
    if not (1 if whole else 0) <= number < float("inf"):
        kind = "a whole number of at least 1" if whole else "a number of at least 0"
        raise SignforgeError(f"{variable} must be {kind}, not '{text}'.")
    return number
