"""On a real Ray of two workers: the same rows as in one process, also when a worker is killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from signforge_ray import run_on_ray
from signforge_ray.executor import MAX_RETRIES

import signforge
from signforge.benchmark.folder import read_predictions
from signforge.benchmark.runner import Job, JobResult, run_benchmark
from signforge.gan.sampler import GeneratorCard, build_generator
from signforge.testing import ExecutorContract, check_executor

CLOCKS = ("classifier_seconds", "drawing_seconds", "gate_seconds", "finished_at", "hardware")
ARMS = ("real", "synthetic_ungated")
PAIRS = [(arm, seed) for seed in (0, 1) for arm in ARMS]


@pytest.fixture(scope="module", autouse=True)
def two_workers() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def config() -> signforge.Config:
    return signforge.load_config(
        None,
        [
            ("data.demo_scale", 0.02),
            ("data.resolution", 16),
            ("classifier.name", "test_resnet"),
            ("classifier.steps", 3),
            ("classifier.batch_size", 8),
            ("classifier.device", "cpu"),
            ("benchmark.arms", list(ARMS)),
            ("benchmark.seeds", 2),
        ],
    )


@pytest.fixture(scope="module")
def benchmark(config: signforge.Config) -> dict[str, Any]:
    """Arguments of ``run_benchmark``: data, and a generator that was never trained."""
    splits = signforge.load_prepared_splits(config.data)
    gan = config.gan.model_copy(update={"z_dim": 4, "base_channels": 4, "embedding_dim": 4})
    train = splits.train
    card = GeneratorCard(
        gan=gan,
        resolution=16,
        class_names=train.class_names,
        class_counts=tuple(train.class_counts.tolist()),
        train_fingerprint=train.fingerprint,
        seen_kimg=0.0,
        seconds=0.0,
        weights_sha256="0" * 64,
    )
    torch.manual_seed(0)
    generator = build_generator(gan, num_classes=train.num_classes, resolution=16)
    sampler = signforge.GanSampler(generator, card, torch.device("cpu"))
    return {"config": config, "splits": splits, "sampler": sampler}


@pytest.fixture(scope="module")
def in_process(benchmark: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in process")
    run_benchmark(**benchmark, run_dir=folder)
    return folder


def rows_of(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == len(PAIRS)
    return {
        (row["arm"], row["seed"]): {k: v for k, v in row.items() if k not in CLOCKS} for row in rows
    }


def assert_same_results(folder: Path, reference: Path) -> None:
    assert rows_of(folder) == rows_of(reference)
    for arm, seed in PAIRS:
        expected = read_predictions(reference, arm, seed)
        assert (read_predictions(folder, arm, seed) == expected).all()


def test_rows_equal_those_of_one_process(
    benchmark: dict[str, Any], in_process: Path, tmp_path: Path
) -> None:
    run_benchmark(**benchmark, run_dir=tmp_path, run_jobs=run_on_ray)
    assert_same_results(tmp_path, in_process)


def test_the_task_of_a_killed_worker_is_repeated(
    benchmark: dict[str, Any], in_process: Path, tmp_path: Path
) -> None:
    mark, killed = tmp_path / "pid", []

    # Nested, so that Ray sends its code: a worker cannot import this file.
    def wait_for_death(job: Job, *, work: Any, mark: Path) -> JobResult:
        if (job.arm, job.seed) == ("real", 1) and not mark.exists():
            mark.with_suffix(".tmp").write_text(str(os.getpid()))
            mark.with_suffix(".tmp").rename(mark)
            time.sleep(600)
        return work(job)

    def executor(jobs: Any, work: Any) -> Iterator[JobResult]:
        return run_on_ray(jobs, partial(wait_for_death, work=work, mark=mark))

    def kill() -> None:
        while not mark.exists():
            time.sleep(0.05)
        killed.append(int(mark.read_text()))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    run_benchmark(**benchmark, run_dir=tmp_path / "run", run_jobs=executor)
    killer.join()
    assert len(killed) == 1
    assert killed[0] != os.getpid()
    assert_same_results(tmp_path / "run", in_process)


def test_a_task_that_always_dies_is_given_up_with_one_sentence(tmp_path: Path) -> None:
    def die(job: Job) -> JobResult:
        del job
        (tmp_path / str(time.monotonic_ns())).touch()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    with pytest.raises(
        signforge.SignforgeError, match=r"^Ray gave up on real, seed 3 \(WorkerCrashedError\); "
    ):
        list(run_on_ray([Job("real", 3, 1, 1)], die))
    assert len(list(tmp_path.iterdir())) == 1 + MAX_RETRIES


def test_a_task_has_as_many_threads_as_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    def threads(job: Job) -> JobResult:
        import numpy

        nothing = numpy.zeros(1)
        return JobResult({"arm": job.arm, "threads": torch.get_num_threads()}, nothing, nothing)

    for cores in ("1", "2"):
        monkeypatch.setenv("SIGNFORGE_RAY_CPUS", cores)
        (result,) = run_on_ray([Job("real", 0, 1, 1)], threads)
        assert result.row["threads"] == int(cores)


@pytest.mark.parametrize(
    ("variable", "text", "sentence"),
    [
        ("SIGNFORGE_RAY_CPUS", "0", "SIGNFORGE_RAY_CPUS must be a whole number of at least 1"),
        ("SIGNFORGE_RAY_CPUS", "many", "SIGNFORGE_RAY_CPUS must be a whole number of at least 1"),
        ("SIGNFORGE_RAY_GPUS", "nan", "SIGNFORGE_RAY_GPUS must be a number of at least 0"),
        ("SIGNFORGE_RAY_CPUS", "999", "asks for 999 in each task and the Ray cluster has 2"),
        ("SIGNFORGE_RAY_GPUS", "99.5", "asks for 99.5 in each task and the Ray cluster has "),
    ],
)
def test_what_no_task_can_have(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, sentence: str
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(signforge.SignforgeError, match=sentence):
        list(run_on_ray([Job("real", 0, 1, 1)], lambda _job: JobResult({}, None, None)))


class TestRunOnRay(ExecutorContract):
    @pytest.fixture
    def executor(self) -> Any:
        return run_on_ray

    def test_check_executor(self, executor: Any) -> None:
        check_executor(executor)


def test_the_command_line_lists_it() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "signforge", "plugins", "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    (found,) = [plugin for plugin in json.loads(listed.stdout) if plugin["name"] == "ray"]
    assert (found["kind"], found["distribution"]) == ("executor", "signforge-ray")
    assert found["target"] == "signforge_ray:run_on_ray"
