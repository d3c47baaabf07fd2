"""The rules of an executor plugin as checks: run them on an executor of your own.

``check_executor`` is one call; ``ExecutorContract`` gives pytest one test a rule. The jobs of the
checks leave marks in a temporary folder, so driver and workers must share a file system.
"""

import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from signforge.benchmark.runner import Executor, Job, JobResult, Work
from signforge.errors import SignforgeError
from signforge.testing.rules import require

_PATIENCE = 60.0


def check_executor(executor: Executor, *, patience: float = _PATIENCE) -> None:
    """Whether ``executor`` keeps every rule that the benchmark relies on; runs about ten jobs.

    patience: seconds in which the first result must reach the driver.

    Raises AssertionError with one sentence that says what is wrong.
    """
    _check_no_jobs(executor)
    _check_results(executor)
    _check_streaming(executor, patience)
    _check_errors(executor)


class ExecutorContract:
    """The same rules as pytest tests: subclass it and give a fixture called ``executor``.

    patience: as in ``check_executor``.
    """

    patience = _PATIENCE

    def test_no_jobs_give_no_results(self, executor: Executor) -> None:
        _check_no_jobs(executor)

    def test_each_job_has_its_result(self, executor: Executor) -> None:
        _check_results(executor)

    def test_results_come_while_other_jobs_run(self, executor: Executor) -> None:
        _check_streaming(executor, self.patience)

    def test_errors_of_a_job_are_raised(self, executor: Executor) -> None:
        _check_errors(executor)


def _check_no_jobs(executor: Executor) -> None:
    results = _run(executor, [], _answer)
    require(results == [], f"The executor gives {len(results)} results for no jobs.")


def _check_results(executor: Executor) -> None:
    jobs = _jobs(5)
    results = _run(executor, jobs, _answer)
    for result in results:
        require(
            isinstance(result, JobResult),
            f"The executor yields a {type(result).__name__}; it must yield what the work returns.",
        )
    wanted = sorted((job.arm, job.seed) for job in jobs)
    found = sorted((result.row["arm"], result.row["seed"]) for result in results)
    require(found == wanted, f"The executor gives results of the jobs {found}, not of {wanted}.")
    for result in results:
        expected = _answer(next(job for job in jobs if job.arm == result.row["arm"]))
        pairs = (
            (result.predictions, expected.predictions),
            (result.val_predictions, expected.val_predictions),
        )
        require(
            result.row == expected.row
            and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs),
            f"The executor changes the result of {result.row['arm']}; hand it on as it is.",
        )


def _check_streaming(executor: Executor, patience: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        seen = Path(folder) / "seen"
        work = partial(_wait_unless_first, folder=folder, patience=patience)
        for result in executor(_jobs(2), work):
            if not seen.exists():
                seen.touch()
            require(
                result.row["waited"] < patience,
                "The executor keeps results until all jobs are done; yield each as it comes, so "
                "that a killed benchmark loses only the jobs that were running.",
            )


def _check_errors(executor: Executor) -> None:
    try:
        _run(executor, _jobs(2), _refuse)
    except SignforgeError as error:
        require(
            str(error) == _REFUSAL,
            f"The executor changes the sentence of a job's SignforgeError to {str(error)!r}.",
        )
        return
    except Exception as error:
        raise AssertionError(
            f"The executor raises {type(error).__name__} where the job raised SignforgeError; "
            "raise the job's own error."
        ) from error
    raise AssertionError("The executor is silent about a job that raised; raise its error.")


_REFUSAL = "This job is refused."


def _jobs(count: int) -> list[Job]:
    return [Job(f"arm{number}", number % 2, number, count) for number in range(1, count + 1)]


def _run(executor: Executor, jobs: Sequence[Job], work: Work) -> list[JobResult]:
    return list(executor(jobs, work))


def _answer(job: Job) -> JobResult:
    row = {"arm": job.arm, "seed": job.seed, "third": 1 / 3, "list": [job.number, None]}
    preds = np.arange(job.number, dtype=np.int16)
    return JobResult(row=row, predictions=preds, val_predictions=-preds)


def _refuse(job: Job) -> JobResult:
    del job
    raise SignforgeError(_REFUSAL)


def _wait_unless_first(job: Job, *, folder: str, patience: float) -> JobResult:
    """The job that starts first ends at once, the other once the driver has seen a result."""
    started = time.monotonic()
    try:
        (Path(folder) / "first").touch(exist_ok=False)
    except FileExistsError:
        while not (Path(folder) / "seen").exists() and time.monotonic() - started < patience:
            time.sleep(0.01)
    waited = time.monotonic() - started
    nothing = np.zeros(1, np.int16)
    return JobResult({"arm": job.arm, "seed": job.seed, "waited": waited}, nothing, nothing)
