"""A finished benchmark in TensorBoard, read back (in MLflow: tests/extras)."""

import json
from pathlib import Path
from typing import Any

import pytest

from signforge.benchmark.folder import read_rows
from signforge.benchmark.summary import Summary, summarise_run
from signforge.benchmark.tracking import arm_values, fidelity_values, row_values, track_benchmark
from signforge.config import Config
from signforge.config_file import load_config, validate
from signforge.gan import trackers
from support.benchmark_runs import write_run

pytest.importorskip("accelerate")
accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

ARMS = ("real", "synthetic_tenth+focal_loss")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "benchmark"
    write_run(folder, arms=ARMS, seeds=2)
    return folder


@pytest.fixture(scope="module")
def summary(run: Path) -> Summary:
    return summarise_run(run)


def config_with(run: Path, *names: str) -> Config:
    values = load_config(run / "config.yaml").model_dump(mode="json")
    values["gan"]["trackers"] = list(names)
    return validate(values, "test")


def read_events(run: Path) -> Any:
    events = accumulators.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return events


def test_rows_means_fidelity_and_verdict_arrive(run: Path, summary: Summary) -> None:
    track_benchmark(config_with(run, "tensorboard"), run, summary, pytest.fail)
    events = read_events(run)

    def logged(name: str) -> list[tuple[int, float]]:
        return [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)]

    for arm in ARMS:
        rows = [row for row in read_rows(run) if row["arm"] == arm]
        name = arm.replace("+", "-")
        assert [(row["seed"], row["top1"]) for row in rows] == logged(f"{name}/top1")
        mean = sum(row["macro_accuracy"] for row in rows) / len(rows)
        assert [(0, mean)] == logged(f"{name}/mean_macro_accuracy")
    fidelity = json.loads((run / "fidelity.json").read_text())
    assert [(0, fidelity["fd"])] == logged("fidelity/fd")
    (text,) = (tag for tag in events.Tags()["tensors"] if tag.startswith("verdict"))
    assert events.Tensors(text)[0].tensor_proto.string_val == [summary.verdict.encode()]
    assert not (run / "trackers.json").exists()


def test_rows_that_the_summary_left_out_are_not_logged(tmp_path: Path) -> None:
    write_run(tmp_path / "two", arms=ARMS, seeds=2)
    write_run(tmp_path / "one", arms=("real",), seeds=1)
    fewer = summarise_run(tmp_path / "one")
    config = config_with(tmp_path / "one", "tensorboard")
    track_benchmark(config, tmp_path / "two", fewer, pytest.fail)
    events = read_events(tmp_path / "two")
    assert [event.step for event in events.Scalars("real/top1")] == [0]
    assert not [name for name in events.Tags()["scalars"] if "focal" in name]


def test_no_tracker_is_the_default(run: Path, summary: Summary) -> None:
    before = set(run.rglob("*"))
    track_benchmark(config_with(run), run, summary, pytest.fail)
    assert set(run.rglob("*")) == before


def test_a_tracker_that_cannot_be_opened_costs_no_report(
    run: Path, summary: Summary, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_folder: Path, _known: str | None) -> None:
        raise RuntimeError("No API key configured.")

    monkeypatch.setitem(trackers._START, "wandb", refuse)
    said: list[str] = []
    track_benchmark(config_with(run, "wandb"), run, summary, said.append)
    (sentence,) = said
    assert sentence.startswith("The tracker wandb cannot be opened: No API key configured; mend")
    assert sentence.endswith(f"The report is in {run}; the same command tries again.")


def test_what_is_not_known_is_left_out(summary: Summary) -> None:
    row = {"arm": "real", "seed": 0, "top1": 0.5, "few": None, "class_counts": [1]}
    assert row_values(row) == {"real/top1": 0.5}
    cas = {"top1": 0.5, "few": None, "per_class_recall": [0.1], "made_by": {"learning_rate": 0.1}}
    fidelity = {"fd": 2.0, "n": 480, "extractor": "x", "coverage": None, "cas": cas}
    assert fidelity_values(fidelity) == {"fidelity/fd": 2.0, "fidelity/cas/top1": 0.5}
    real, other = (arm_values(arm) for arm in summary.arms)
    assert set(real) == {"real/mean_macro_accuracy", "real/mean_top1"}
    name = "synthetic_tenth-focal_loss/gain_over_real"
    assert other[f"{name}_low"] <= other[name] <= other[f"{name}_high"]
