"""MLproject and what its commands leave in MLflow's store; needs the extra ``mlflow``."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from signforge.config import Config, GanConfig
from signforge.data.charts import save_image_grid
from signforge.gan.sampler import load_sampler
from signforge.gan.trackers import Trackers, open_trackers
from support.commands_of_2019 import PAGE, page_commands, write_pickles
from support.statuses import make_status

pytest.importorskip("accelerate", reason="accelerate is not installed: pip install '.[mlflow]'")
mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install '.[mlflow]'")

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # MLflow's own use of SQLAlchemy is deprecated
    pytest.mark.timeout(1800),  # six commands, each of which imports MLflow and torch twice
]

ROOT = PAGE.parents[1]
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
ARMS = ("real", "oversample", "synthetic_tenth+focal_loss")
TINY = {
    "data": {"resolution": 16, "demo_scale": 0.02},
    "gan": {
        "z_dim": 4,
        "base_channels": 4,
        "embedding_dim": 4,
        "guide_steps": 2,
        "probe_every_kimg": None,
        "batch_size": 8,
        "total_kimg": 0.032,
        "status_every_kimg": 0.016,
        "samples_every_kimg": 0.016,
        "device": "cpu",
    },
    "balance": {"gate_tau": 0},
    "classifier": {"name": "test_resnet", "steps": 2, "batch_size": 16, "device": "cpu"},
    "benchmark": {
        "arms": list(ARMS),
        "seeds": 2,
        "extractor_steps": 2,
        "bootstrap_resamples": 100,
    },
}
SMALLER = {
    "config=gtsrb_cpu": "config=tiny.yaml",
    "config=demo": "config=tiny.yaml",
    "iterations=13100": "iterations=2 -P config=tiny.yaml",
    "iterations=14100 -P goodrun_ref=13100": "iterations=4 -P goodrun_ref=2",
    "num=20": "num=3",
}


class Store:
    """What a test asks of MLflow's store; runs come in the order they were made."""

    def __init__(self, uri: str) -> None:
        self.client = mlflow.MlflowClient(tracking_uri=uri)

    def runs(self, experiment: str) -> list[Any]:
        found = self.client.get_experiment_by_name(experiment)
        assert found is not None
        return self.client.search_runs([found.experiment_id], order_by=["attributes.start_time"])

    def of_entry_point(self, name: str) -> list[Any]:
        runs = self.runs("Default")
        return [run for run in runs if run.data.tags["mlflow.project.entryPoint"] == name]

    def named(self, name: str) -> list[Any]:
        return [run for run in self.runs("signforge") if run.info.run_name == name]

    def history(self, run: Any, metric: str) -> list[tuple[int, float]]:
        history = self.client.get_metric_history(run.info.run_id, metric)
        return [(entry.step, entry.value) for entry in history]

    def artifacts(self, run: Any, folder: str | None = None) -> set[str]:
        found: set[str] = set()
        for file in self.client.list_artifacts(run.info.run_id, folder):
            found |= self.artifacts(run, file.path) if file.is_dir else {file.path}
        return found


# --- MLproject -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with MLproject and the pickles of 2019, in which all commands of the page ran."""
    place = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "MLproject", place)
    write_pickles(place / "traffic-signs-data")
    (place / "tiny.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    for command in page_commands(SMALLER, "mlflow"):
        if command[1] == "run":
            run_project(place, command[2:])
    return place


def run_project(place: Path, arguments: Sequence[str]) -> None:
    """``mlflow run`` in that folder, into MLflow's default store there."""
    environment = {name: value for name, value in os.environ.items() if "MLFLOW" not in name}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "SIGNFORGE_CACHE": str(place / "cache"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "mlflow", "run", *arguments]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def store(place: Path) -> Store:
    return Store(f"sqlite:///{place}/mlflow.db")


@pytest.mark.slow
def test_every_run_is_there_and_finished(store: Store) -> None:
    runs = store.runs("Default")
    assert [run.data.tags["mlflow.project.entryPoint"] for run in runs] == [
        *("main", "Traffic_Signs_GAN_train.py", "Traffic_Signs_GAN_evaluate.py"),
        *("train-cgan", "generate", "benchmark"),
    ]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert [found.name for found in store.client.search_experiments()] == ["Default"]


@pytest.mark.slow
def test_training_logs_config_metrics_grids_and_generator(store: Store, place: Path) -> None:
    (run,) = store.of_entry_point("train-cgan")
    assert run.data.params["gan.base_channels"] == "4"
    assert run.data.params["config"] == "tiny.yaml"
    lines = [
        json.loads(line) for line in (place / "runs/gtsrb/metrics.jsonl").read_text().splitlines()
    ]
    for name in ("generator_loss", "discriminator_loss", "generator_learning_rate"):
        expected = [(round(1000 * line["seen_kimg"]), line[name]) for line in lines]
        assert store.history(run, name) == expected
        assert [step for step, _ in expected] == [16, 32]
    files = store.artifacts(run)
    assert {"samples/000000.032kimg.png", "training/film.gif", "training/config.yaml"} <= files
    folder = store.client.download_artifacts(run.info.run_id, "generator", str(place))
    logged, trained = load_sampler(Path(folder), "cpu"), load_sampler(place / "runs/gtsrb", "cpu")
    labels = torch.arange(43)
    assert torch.equal(logged.sample(labels, 0), trained.sample(labels, 0))


@pytest.mark.slow
def test_the_old_names_train_one_class_and_go_on(store: Store, place: Path) -> None:
    (first,), (second,) = (
        store.of_entry_point(name) for name in ("main", "Traffic_Signs_GAN_train.py")
    )
    assert first.data.params["gan.batch_size"] == "20"
    assert first.data.params["data.classes"] == second.data.params["data.classes"] == '["17"]'
    lines = (place / "runs/class17/metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["seen_kimg"] == 0.08
    # Each `mlflow run` is a run of its own: the second has what came after the first.
    assert [step for step, _ in store.history(first, "generator_loss")] == [20, 40]
    assert [step for step, _ in store.history(second, "generator_loss")] == [60, 80]
    assert len(list((place / "runs/class17/evaluate").glob("*/*.png"))) == 20


@pytest.mark.slow
def test_generate_logs_how_and_the_grid(store: Store) -> None:
    (run,) = store.of_entry_point("generate")
    assert run.data.params["generate.classes"] == "No entry"
    assert run.data.params["generate.num"] == "3"
    assert store.artifacts(run) == {"generated/grid.png"}


@pytest.mark.slow
def test_a_benchmark_logs_rows_verdict_and_report(store: Store, place: Path) -> None:
    (run,) = store.of_entry_point("benchmark")
    rows = [json.loads(line) for line in (place / "runs/demo/rows.jsonl").read_text().splitlines()]
    for arm in ARMS:
        expected = [(row["seed"], row["macro_accuracy"]) for row in rows if row["arm"] == arm]
        assert store.history(run, f"{arm.replace('+', '-')}/macro_accuracy") == expected
        assert len(expected) == 2
    assert run.data.metrics["fidelity/fd"] > 0
    assert run.data.params["benchmark.seeds"] == "2"
    verdict = run.data.tags["verdict"]
    assert verdict == run.data.tags["mlflow.note.content"]
    assert verdict in (place / "runs/demo/results.md").read_text()
    files = store.artifacts(run)
    assert {f"benchmark/{name}" for name in ("report.html", "results.md", "rows.jsonl")} <= files
    # Its own GAN is in the same run.
    assert "generator/generator.safetensors" in files
    assert [step for step, _ in store.history(run, "generator_loss")] == [16, 32]


@pytest.mark.slow
def test_no_artifact_can_run_code(store: Store) -> None:
    kinds = {Path(file).suffix for run in store.runs("Default") for file in store.artifacts(run)}
    assert kinds == {
        *(".png", ".gif", ".json", ".jsonl", ".yaml"),
        *(".safetensors", ".html", ".md", ".csv"),
    }


def test_the_old_names_share_one_command() -> None:
    points = PROJECT["entry_points"]
    assert points["main"] == points["Traffic_Signs_GAN_train.py"]
    assert {"train-cgan", "generate", "benchmark", "Traffic_Signs_GAN_evaluate.py"} <= set(points)
    assert all("--tracker mlflow" in point["command"] for point in points.values())


# --- the tracker ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store for the trackers of this process; to make one takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield Store(uri)


def test_one_run_over_a_resume(local: Store, tmp_path: Path) -> None:
    run = tmp_path / "resumed"
    grid = run / "samples" / "000004kimg.png"
    save_image_grid(grid, [torch.zeros((2, 3, 8, 8), dtype=torch.uint8)], ["stop"])
    for first, last in ((4.0, 8.0), (12.0, 16.0)):
        with open_trackers(Config(gan=GanConfig(trackers=("mlflow",))), run) as opened:
            opened.log_status(make_status(first))
            opened.log_grid(grid, first)
            opened.log_status(make_status(last))
    (found,) = local.named("resumed")
    assert found.data.params["gan.z_dim"] == "100"
    steps = [step for step, _ in local.history(found, "generator_loss")]
    assert steps == [4000, 8000, 12000, 16000]
    assert local.artifacts(found) == {"samples/000004kimg.png"}


def test_without_ids_kept_each_time_is_a_run_of_its_own(local: Store, tmp_path: Path) -> None:
    for num in (1, 2):
        with Trackers(["mlflow"], tmp_path / "twice", {"num": num}, pytest.fail) as opened:
            opened.log_text("verdict", "Use `real`.")
    first, second = local.named("twice")
    assert [run.data.params["num"] for run in (first, second)] == ["1", "2"]
    assert first.data.tags["verdict"] == "Use `real`."


def test_all_of_a_job_goes_into_the_run_that_mlflow_run_has_made(
    local: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = local.client.create_run(local.client.create_experiment("chosen"))
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", made.info.experiment_id)
    for name in ("generator", "benchmark"):
        with Trackers(["mlflow"], tmp_path / name, {"seed": 0}, pytest.fail) as opened:
            opened.log_values({name: 1.0}, 0)
    (found,) = local.runs("chosen")
    assert set(found.data.metrics) == {"generator", "benchmark"}
    assert found.info.run_id == made.info.run_id
